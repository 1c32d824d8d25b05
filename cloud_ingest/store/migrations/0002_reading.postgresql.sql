-- One row a tick. NaN stands for "no value". No unique index: the ledger makes it exact.
create table telemetry.reading (
    time      timestamptz not null,
    device_id integer not null,
    layout_id integer not null,
    samples   double precision[] not null
) partition by range (time);

-- The newest row of a device's layout, and a range of one series, are each one descent.
create index reading_device_layout_time on telemetry.reading (device_id, layout_id, time desc);
