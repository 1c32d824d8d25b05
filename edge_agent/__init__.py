"""The edge agent: measures its host, keeps every sample until the cloud has it, and sends it over MQTT."""
