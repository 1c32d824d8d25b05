-- What is told to whom. `notification` says what is to be told; a delivery is one message to one receiver.

-- What was there before is not told now.
alter table telemetry.notification add column fanned_out_at timestamptz default now();
alter table telemetry.notification alter column fanned_out_at drop default;
-- Later than it was written where a silence held it back.
alter table telemetry.notification add column fan_out_at timestamptz not null default now();

create index notification_waiting on telemetry.notification (fan_out_at) where fanned_out_at is null;
create index notification_device on telemetry.notification (device_id) where device_id is not null;

-- Receivers that this database has met; those that fail are left alone for a while.
create table telemetry.receiver (
    name         text primary key,
    failures     integer not null default 0,   -- since it last took something
    paused_until timestamptz
);

create table telemetry.delivery (
    delivery_id   uuid primary key default gen_random_uuid(),  -- what the receiver knows the message by
    number        bigint generated always as identity unique,
    receiver      text not null references telemetry.receiver,
    group_key     text,                        -- gathers what has the same until it is due; null: gathers nothing
    digest        boolean not null default false,
    state         text not null default 'waiting' check (state in ('waiting', 'sent', 'dead')),
    created_at    timestamptz not null default now(),
    waiting_since timestamptz not null default now(),  -- later than created_at where it was dead in between
    due_at        timestamptz not null,
    attempts      integer not null default 0,  -- begun; tells claims apart
    claimed_until timestamptz,
    last_error    text,
    done_at       timestamptz
) with (fillfactor = 70);

create index delivery_waiting on telemetry.delivery (receiver, number) where state = 'waiting';
create index delivery_done on telemetry.delivery (receiver, done_at) where state <> 'waiting';

-- What a message tells. Nothing is added once it was tried: a message says the same however often it is sent.
create table telemetry.delivery_notification (
    delivery_id     uuid not null references telemetry.delivery on delete cascade,
    notification_id bigint not null references telemetry.notification on delete cascade,
    primary key (delivery_id, notification_id)
);

create index delivery_notification_notification on telemetry.delivery_notification (notification_id);
