-- The newest sample that was known of an alert when it became unknown: a newer one makes it known again.
alter table telemetry.alert add column unknown_seen_ms bigint;
