"""The broker for machines without mosquitto: `python -m telemetry_bridge.amqtt_broker PORT`.

amqtt speaks MQTT 3.1.1 alone and keeps everything in memory; commit acks make that safe, the outbox sends again.
"""

import asyncio
import logging
import signal
import sys

from amqtt.broker import Broker

from telemetry_bridge.ports import LOOPBACK


async def serve(port: int) -> None:
    """Serve on this port of the loopback interface until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{LOOPBACK}:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    await stop.wait()
    await broker.shutdown()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(serve(int(sys.argv[1])))
