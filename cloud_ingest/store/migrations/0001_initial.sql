-- Devices, the ledger, series and layouts. Released migrations never change; a new one follows.

create schema if not exists telemetry;

create table telemetry.device (
    device_id  integer generated always as identity primary key,
    name       text not null unique,
    site       text not null,
    created_at timestamptz not null default now()
);

-- The last retained `status` of each device, as the worker read it.
create table telemetry.device_status (
    device_id   integer primary key references telemetry.device,
    online      boolean not null,
    received_at timestamptz not null,
    status      jsonb not null
);

-- The ledger: which sequence numbers of a stream are settled (stored, or parked in `rejected`).
-- Its row is the lock that makes redelivery harmless with any number of ingesters.
create table telemetry.stream (
    stream_id  uuid primary key,
    device_id  integer not null references telemetry.device,
    received   int8multirange not null default '{}',
    low        bigint not null default 1,      -- lowest sequence number that the outbox still held
    ticks      bigint not null default 0,      -- readings stored
    newest     timestamptz,                    -- time of the newest reading stored
    last_seen  timestamptz not null default now(),
    created_at timestamptz not null default now()
) with (fillfactor = 50);                      -- updated with each batch: leave room for in-page (HOT) updates

create index stream_device on telemetry.stream (device_id);

create table telemetry.series_key (
    key_id integer generated always as identity primary key,
    key    text not null unique,               -- canonical Prometheus notation
    metric text not null,
    labels jsonb not null default '{}',
    unit   text not null default ''
);

create index series_key_metric on telemetry.series_key (metric);

-- A layout is an ordered list of series keys; every device that sends the same keys shares it.
create table telemetry.layout (
    layout_id  integer generated always as identity primary key,
    digest     bytea not null unique,          -- SHA-256 of the canonical keys, in order
    created_at timestamptz not null default now()
);

create table telemetry.layout_position (
    layout_id integer not null references telemetry.layout,
    position  integer not null,                -- 1-based index into reading.samples
    key_id    integer not null references telemetry.series_key,
    primary key (layout_id, position)
);

create index layout_position_key on telemetry.layout_position (key_id, layout_id, position);

-- Which layouts a device has ever sent: where to look for its newest values.
create table telemetry.device_layout (
    device_id  integer not null references telemetry.device,
    layout_id  integer not null references telemetry.layout,
    created_at timestamptz not null default now(),
    primary key (device_id, layout_id)
);

-- Messages that could not be stored, kept for a person to see and replay.
create table telemetry.rejected (
    rejected_id       bigint generated always as identity primary key,
    topic             text not null,
    digest            bytea not null,          -- SHA-256 of the whole payload
    payload           bytea not null,          -- its first bytes, where it is larger than the limit
    payload_bytes     bigint not null,
    content_type      text,
    reason            text not null,
    detail            text not null,
    received_count    bigint not null default 1,
    first_received_at timestamptz not null default now(),
    last_received_at  timestamptz not null default now(),
    unique (topic, digest)
);

create index rejected_last_received on telemetry.rejected (last_received_at);
