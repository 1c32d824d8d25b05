-- When samples came late, and how many of them can't be judged; and what is told of a device and no single alert.

alter table telemetry.alert_device
    add column late_since   timestamptz,       -- the first of them came
    add column late_at      timestamptz,       -- the newest of them came
    add column late_too_old bigint not null default 0;  -- ticks from before the readings that are kept one by one

alter table telemetry.notification
    alter column alert_id drop not null,
    add column device_id integer references telemetry.device;  -- of what is about a device as a whole: digests
