-- How far the tiers are made and kept. Ingest reads the row under a shared advisory lock and the worker changes it
-- under the same lock held alone; 1970 means that nothing has been done yet.
create table telemetry.rollup_state (
    singleton boolean primary key default true check (singleton),
    watermark timestamptz not null default 'epoch',   -- a reading from before it must leave a mark
    rolled_5m timestamptz not null default 'epoch',   -- the tier holds every bucket before it, and none after
    rolled_1h timestamptz not null default 'epoch',
    rolled_1d timestamptz not null default 'epoch',
    floor_raw timestamptz not null default 'epoch',   -- what is older is gone from the tier
    floor_5m  timestamptz not null default 'epoch',
    floor_1h  timestamptz not null default 'epoch',
    floor_1d  timestamptz not null default 'epoch'
);

insert into telemetry.rollup_state default values;

-- Buckets that the worker must look at again because something came late. May hold the same one more than once.
create table telemetry.rollup_mark (
    level     smallint not null,                      -- 1: 5 minutes, 2: an hour, 3: a day
    time      timestamptz not null,                   -- the start of the bucket
    device_id integer not null,
    layout_id integer not null
);

create index rollup_mark_order on telemetry.rollup_mark (level, time, device_id, layout_id);

-- The narrow picture of each tier for SQL users and Grafana: a row a series and bucket. The mean is sum / count.
create view telemetry.sample_5m as
select
    rollup.time,
    device.name as device,
    device.site,
    series_key.metric,
    series_key.labels,
    series_key.unit,
    sum(coalesce(rollup.counts[position], rollup.ticks)) as count,
    sum(rollup.sums[position]) as sum,
    min(rollup.mins[position]) as min,
    max(rollup.maxs[position]) as max,
    (array_agg(rollup.lasts[position] order by coalesce(rollup.lasts_times[position], rollup.last_time) desc,
               rollup.lasts[position] desc))[1] as last
from telemetry.rollup_5m as rollup
join telemetry.device using (device_id)
join telemetry.layout_position using (layout_id)
join telemetry.series_key using (key_id)
where rollup.lasts[position] <> 'NaN'
group by rollup.time, device.device_id, series_key.key_id;

create view telemetry.sample_1h as
select
    rollup.time,
    device.name as device,
    device.site,
    series_key.metric,
    series_key.labels,
    series_key.unit,
    sum(coalesce(rollup.counts[position], rollup.ticks)) as count,
    sum(rollup.sums[position]) as sum,
    min(rollup.mins[position]) as min,
    max(rollup.maxs[position]) as max,
    (array_agg(rollup.lasts[position] order by coalesce(rollup.lasts_times[position], rollup.last_time) desc,
               rollup.lasts[position] desc))[1] as last
from telemetry.rollup_1h as rollup
join telemetry.device using (device_id)
join telemetry.layout_position using (layout_id)
join telemetry.series_key using (key_id)
where rollup.lasts[position] <> 'NaN'
group by rollup.time, device.device_id, series_key.key_id;

create view telemetry.sample_1d as
select
    rollup.time,
    device.name as device,
    device.site,
    series_key.metric,
    series_key.labels,
    series_key.unit,
    sum(coalesce(rollup.counts[position], rollup.ticks)) as count,
    sum(rollup.sums[position]) as sum,
    min(rollup.mins[position]) as min,
    max(rollup.maxs[position]) as max,
    (array_agg(rollup.lasts[position] order by coalesce(rollup.lasts_times[position], rollup.last_time) desc,
               rollup.lasts[position] desc))[1] as last
from telemetry.rollup_1d as rollup
join telemetry.device using (device_id)
join telemetry.layout_position using (layout_id)
join telemetry.series_key using (key_id)
where rollup.lasts[position] <> 'NaN'
group by rollup.time, device.device_id, series_key.key_id;
