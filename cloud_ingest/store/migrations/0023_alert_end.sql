-- What ended not long ago is repeated to receivers that forget.
create index alert_end on telemetry.alert (ended_at) where ended_at is not null;
