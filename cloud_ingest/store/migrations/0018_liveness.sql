-- Which devices are there, since when the cloud could hear them, and alerts of which nothing is known.

alter table telemetry.device add column silence_seconds double precision;  -- null: as the configuration says

-- Since when the cloud has been listening without a break, and until when it is known to have: the worker to
-- `statuses`, ingesters to `readings` and to each `source NAME` of other publishers.
create table telemetry.hearing (
    part  text primary key,
    since timestamptz not null,
    until timestamptz not null
) with (fillfactor = 50);

-- Many devices of one site that went away together: told as one.
create table telemetry.site_outage (
    outage_id  bigint generated always as identity primary key,
    site       text not null,
    started_at timestamptz not null,
    ended_at   timestamptz,
    devices    text[] not null                 -- all that were part of it
);

create unique index site_outage_open on telemetry.site_outage (site) where ended_at is null;

create table telemetry.device_liveness (
    device_id  integer primary key references telemetry.device,
    online     boolean not null,
    since      timestamptz not null,           -- when it was last heard of, where it is away; else when it came
    reason     text,                           -- why it is away: stopped, lost, silent
    noticed_at timestamptz not null,
    told       boolean not null,               -- that it is away; by itself or with its site
    outage_id  bigint references telemetry.site_outage
) with (fillfactor = 50);

-- An open alert of which nothing is known since then; null: it fires. `no_data`: silence itself is what it tells of.
alter table telemetry.alert add column unknown_since timestamptz;
alter table telemetry.alert add column no_data boolean not null default false;

drop index telemetry.alert_open;
create unique index alert_open on telemetry.alert (device_id, threshold_id, key_id, no_data) where ended_at is null;
