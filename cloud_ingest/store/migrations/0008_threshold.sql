-- Locations, who and what is where, and thresholds with their versions.

create extension if not exists ltree;

create table telemetry.location (
    location_id integer generated always as identity primary key,
    path        ltree not null unique,         -- factory.building.floor.zone
    name        text not null,
    latitude    double precision,
    longitude   double precision,
    time_zone   text,                          -- IANA name; null: that of the location above
    version     integer not null default 1,
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now()
);

create index location_path on telemetry.location using gist (path);

alter table telemetry.device add column location_id integer references telemetry.location;

create index device_location on telemetry.device (location_id) where location_id is not null;

-- What people say of single series of a device; a series without a row is where its device is.
create table telemetry.sensor (
    device_id   integer not null references telemetry.device,
    key_id      integer not null references telemetry.series_key,
    location_id integer references telemetry.location,
    sensor_type text,
    primary key (device_id, key_id)
);

create index sensor_location on telemetry.sensor (location_id) where location_id is not null;

create table telemetry.threshold (
    threshold_id integer generated always as identity primary key,
    name         text not null unique,
    version      integer not null,
    definition   jsonb not null,
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now()
);

-- Every version there ever was, also of thresholds that are gone: an episode names the one that judged it.
create table telemetry.threshold_version (
    threshold_id integer not null,
    version      integer not null,
    valid_from   timestamptz not null,
    definition   jsonb,                        -- null: deleted
    primary key (threshold_id, version)
);

-- Counts the changes of all that decides which threshold judges what. One row.
create table telemetry.threshold_epoch (
    one   boolean primary key default true check (one),
    epoch bigint not null
);

insert into telemetry.threshold_epoch (epoch) values (1);

create function telemetry.next_threshold_epoch() returns trigger language plpgsql as $$
begin
    update telemetry.threshold_epoch set epoch = epoch + 1;
    return null;
end $$;

create trigger threshold_epoch after insert or update or delete on telemetry.threshold
    for each statement execute function telemetry.next_threshold_epoch();
create trigger location_epoch after update of path or delete on telemetry.location
    for each statement execute function telemetry.next_threshold_epoch();
create trigger sensor_epoch after insert or update or delete on telemetry.sensor
    for each statement execute function telemetry.next_threshold_epoch();
create trigger device_epoch after update on telemetry.device for each row
    when (old.site is distinct from new.site or old.location_id is distinct from new.location_id)
    execute function telemetry.next_threshold_epoch();
