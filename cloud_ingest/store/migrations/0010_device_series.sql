-- The cardinality of each device: the series of those of its layouts that count. A layout that sent nothing for long
-- does not count any more (counted_since is null) until it is sent again; what it sent stays where it is.
alter table telemetry.device_layout add column counted_since timestamptz default now();

create table telemetry.device_series (
    device_id integer not null references telemetry.device,
    key_id    integer not null references telemetry.series_key,
    primary key (device_id, key_id)
);

insert into telemetry.device_series (device_id, key_id)
select distinct device_id, key_id from telemetry.device_layout join telemetry.layout_position using (layout_id);
