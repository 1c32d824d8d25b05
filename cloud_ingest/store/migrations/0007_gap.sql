-- Gaps: numbers of a stream that never came and never will, as its edge says. They are settled in the ledger, which so
-- stays in one piece; here is why they are missing, and from when to when.
create table telemetry.gap (
    stream_id  uuid not null references telemetry.stream,
    from_seq   bigint not null,
    to_seq     bigint not null,
    ticks      bigint not null,               -- how many numbers are missing: all from from_seq to to_seq, unless thinned
    start_time timestamptz,                   -- the last reading before it, where that is known
    end_time   timestamptz,                   -- the first after it
    reason     text not null,                 -- dropped, thinned, lost (telemetry_contract.payload), or the edge's own
    created_at timestamptz not null default now(),
    primary key (stream_id, from_seq)
);

create index gap_created_at on telemetry.gap (created_at);
