-- What the cloud wants of a device's configuration. Null: nothing any more, which its device may not have heard yet.
create sequence telemetry.desired_config_version;

create table telemetry.desired_config (
    device_id  integer primary key references telemetry.device,
    version    bigint not null unique,         -- of all devices; the later a change is committed, the higher
    settings   jsonb,                          -- telemetry_contract.desired.DesiredSettings
    changed_at timestamptz not null default now()
);
