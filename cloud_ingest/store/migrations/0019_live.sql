-- The transaction that last stored a reading of the stream which is about the present: who follows what is new goes by
-- it, in the order of commits. No index: the row is updated with each batch, and must stay in its page.
alter table telemetry.stream add column newest_xid xid8;
