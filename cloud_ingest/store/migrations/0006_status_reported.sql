-- When the device last spoke for itself: what its last will says, the broker says for it, at a time of its own.
alter table telemetry.device_status add column reported_at timestamptz;
update telemetry.device_status set reported_at = received_at where status ? 'time';
