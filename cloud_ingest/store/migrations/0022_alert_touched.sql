-- Up to when anything of a device was pending or firing: what comes from later, and is well, changes nothing. Up to when
-- its layouts were judged, the readings themselves tell.

alter table telemetry.alert_device add column touched_ms bigint not null default 0;

update telemetry.alert_device set touched_ms = coalesce((select max(it) from unnest(newest_ms) as it), 0);

alter table telemetry.alert_device drop column layouts, drop column newest_ms;
