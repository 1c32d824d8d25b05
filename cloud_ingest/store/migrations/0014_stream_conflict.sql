-- Devices that sent ticks of a stream that belongs to another: an outbox that was copied to a second machine.
create table telemetry.stream_conflict (
    stream_id     uuid not null references telemetry.stream on delete cascade,
    device_id     integer not null references telemetry.device,   -- who is not its owner
    messages      bigint not null,
    first_seen_at timestamptz not null default now(),
    last_seen_at  timestamptz not null default now(),
    primary key (stream_id, device_id)
);

create index stream_conflict_device on telemetry.stream_conflict (device_id);
