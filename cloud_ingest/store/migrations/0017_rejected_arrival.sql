-- What a replay needs to lose nothing: when a message of a source came (null: not known, or of an agent of ours), which
-- is the time of its readings that have none of their own, and whether the broker had kept it for whoever subscribes.
-- `debt_known` is false of messages from before `seqs` was kept: they may owe ticks that `seqs` does not tell.
alter table telemetry.rejected
    add column received_at timestamptz,
    add column retained boolean not null default false,
    add column debt_known boolean not null default false;

update telemetry.rejected set debt_known = true where stream_id is not null;

alter table telemetry.rejected alter column debt_known set default true;
