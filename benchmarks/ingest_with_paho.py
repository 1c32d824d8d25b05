"""`cloud-ingest ingest` with the source for MQTT 3.1.1, whatever the protocol: what the other is measured beside."""

import os
import sys
import threading

from cloud_ingest import config, log
from cloud_ingest.ingest.main import run
from cloud_ingest.ingest.mqtt_source import MqttSource
from cloud_ingest.stopping import stop_on_signals

if __name__ == "__main__":
    settings = config.load(None, os.environ)
    log.configure(settings.logging, "ingest")
    stop = threading.Event()
    stop_on_signals(stop)
    sys.exit(run(settings, stop, MqttSource))
