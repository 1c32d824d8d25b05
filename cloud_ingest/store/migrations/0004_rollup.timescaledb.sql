-- Rollups: a row a device, layout and bucket; several rows of one bucket add up. Of `samples` in each series' position:
-- how many had a value (counts; null: all of them, `ticks`), and of these the sum, the smallest, the largest and the
-- latest, with its time (lasts_times; null: `last_time` for all). Without a value: count and sum 0, the others NaN.
create table telemetry.rollup_5m (
    time        timestamptz not null,          -- the start of the bucket
    device_id   integer not null,
    layout_id   integer not null,
    ticks       integer not null,
    first_time  timestamptz not null,
    last_time   timestamptz not null,
    sums        double precision[] not null,
    mins        double precision[] not null,
    maxs        double precision[] not null,
    lasts       double precision[] not null,
    counts      integer[],
    lasts_times timestamptz[]
);

create table telemetry.rollup_1h (like telemetry.rollup_5m);
create table telemetry.rollup_1d (like telemetry.rollup_5m);

select create_hypertable('telemetry.rollup_5m', 'time', chunk_time_interval => interval '1 day',
                         create_default_indexes => false);
select create_hypertable('telemetry.rollup_1h', 'time', chunk_time_interval => interval '7 days',
                         create_default_indexes => false);
select create_hypertable('telemetry.rollup_1d', 'time', chunk_time_interval => interval '56 days',
                         create_default_indexes => false);

create index rollup_5m_device_layout_time on telemetry.rollup_5m (device_id, layout_id, time desc);
create index rollup_1h_device_layout_time on telemetry.rollup_1h (device_id, layout_id, time desc);
create index rollup_1d_device_layout_time on telemetry.rollup_1d (device_id, layout_id, time desc);
