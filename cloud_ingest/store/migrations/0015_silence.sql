-- Silences: for how long nobody is told of which alerts. One that was ended early, or is over, stays on record.
create table telemetry.silence (
    silence_id bigint generated always as identity primary key,
    scope      jsonb not null,                 -- cloud_ingest.alerts.silence.Scope
    starts_at  timestamptz not null,
    ends_at    timestamptz not null check (ends_at >= starts_at),
    created_by text not null,
    note       text,
    created_at timestamptz not null default now()
);

create index silence_end on telemetry.silence (ends_at);
