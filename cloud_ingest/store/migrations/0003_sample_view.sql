-- The narrow picture for SQL users and Grafana: a row a sample.
create view telemetry.sample as
select
    reading.time,
    device.name as device,
    device.site,
    series_key.metric,
    series_key.labels,
    series_key.unit,
    reading.samples[layout_position.position] as value
from telemetry.reading
join telemetry.device using (device_id)
join telemetry.layout_position using (layout_id)
join telemetry.series_key using (key_id)
where reading.samples[layout_position.position] <> 'NaN'::double precision;
