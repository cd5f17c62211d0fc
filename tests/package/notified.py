"""The service manager's side of sd_notify: writes down what a server says.

    notified.py SOCKET FILE
"""

import socket
import sys

place, file = sys.argv[1:]
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
manager.bind(place)
with open(file, "a", encoding="utf-8") as log:
    while True:
        message = manager.recv(4096).decode()
        if "WATCHDOG=1" in message:
            continue
        log.write(message if message.endswith("\n") else message + "\n")
        log.flush()
        if "STOPPING=1" in message:
            break
