-- Alerts: what the machine remembers, episodes, and what is to be told.

-- Each episode once; an open one has no end, and its peak and last value stand in alert_state.
create table telemetry.alert (
    alert_id        bigint generated always as identity primary key,
    threshold_id    integer not null,
    version         integer not null,          -- of the threshold, which opened it
    device_id       integer not null references telemetry.device,
    key_id          integer not null references telemetry.series_key,
    severity        text not null,
    start_at        timestamptz not null,      -- the first sample beyond the level
    fired_at        timestamptz not null,
    ended_at        timestamptz,
    end_reason      text,                      -- cleared; withdrawn: no threshold watches the series any more
    peak            double precision,
    peak_at         timestamptz,
    last_value      double precision,
    late            boolean not null default false,
    acknowledged_at timestamptz,
    acknowledged_by text,
    note            text,
    created_at      timestamptz not null default now()
);

create unique index alert_open on telemetry.alert (device_id, threshold_id, key_id) where ended_at is null;
create index alert_start on telemetry.alert (start_at desc, alert_id desc);
create index alert_device_start on telemetry.alert (device_id, start_at desc);

-- Series that are pending or firing; without a row a series is ok. Times in ms since the epoch.
create table telemetry.alert_state (
    device_id         integer not null references telemetry.device,
    threshold_id      integer not null,
    key_id            integer not null references telemetry.series_key,
    time_ms           bigint not null,         -- newest sample judged
    seen_ms           bigint not null,         -- newest that had a value
    version           integer not null,        -- of the threshold, which judged that
    beyond_since_ms   bigint,
    critical_since_ms bigint,
    peak              double precision not null,
    peak_ms           bigint not null,
    last_value        double precision not null,
    start_ms          bigint,                  -- these four while firing
    fired_ms          bigint,
    severity          smallint,
    open_version      integer,
    primary key (device_id, threshold_id, key_id)
) with (fillfactor = 50);

-- Up to which time each layout of a device was judged, and from when to when samples came later than that and are
-- to be judged as history. Its row is the lock under which a device is judged.
create table telemetry.alert_device (
    device_id     integer primary key references telemetry.device,
    layouts       integer[] not null default '{}',
    newest_ms     bigint[] not null default '{}',
    late_first_ms bigint,
    late_last_ms  bigint
) with (fillfactor = 50);

create index alert_device_late on telemetry.alert_device (device_id) where late_first_ms is not null;

-- What is to be told, written in the transaction in which it happened. Numbers are not given in the order of commits:
-- who follows them in order takes only rows whose transaction is older than pg_snapshot_xmin(pg_current_snapshot()).
create table telemetry.notification (
    notification_id bigint generated always as identity primary key,
    transaction_id  xid8 not null default pg_current_xact_id(),
    alert_id        bigint not null references telemetry.alert,
    kind            text not null,             -- opened, escalated, ended
    content         jsonb not null,
    created_at      timestamptz not null default now()
);

create index notification_order on telemetry.notification (transaction_id, notification_id);
create index notification_alert on telemetry.notification (alert_id);
