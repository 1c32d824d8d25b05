-- Who speaks for a device that has no agent of ours: a source of the configuration, or who writes over HTTP.
create table telemetry.publisher (
    device_id  integer primary key references telemetry.device,
    name       text not null,
    created_at timestamptz not null default now()
);
