-- What a rejected message is about: its device, the configured source that it came from (null: our own agents), and the
-- ticks that are settled in the ledger though they were not stored. Each is in one row at most, which is what makes a
-- replay exact.
alter table telemetry.rejected
    add column device text,
    add column source text,
    add column stream_id uuid,
    add column seqs int8multirange not null default '{}';

-- In the topics of our own agents.
update telemetry.rejected set device = split_part(topic, '/', 4) where topic like 'telemetry/v1/%/%/%';

create index rejected_device on telemetry.rejected (device, rejected_id);
