"""One end of the lab's torrent: makes the torrent file, seeds it, or downloads and passes it on.

TCP only; no DHT, no local discovery, no port mapping, no rate limits. Every peer is told of every other one and of the seed. Until t0 a
terminal is connected in upload mode: it asks for nothing. Prints one JSON object a line: `ready` when all connections are made, `completed`,
and at SIGTERM `stopped` with the payload that was uploaded.
"""

import argparse
import ipaddress
import json
import os
import signal
import sys
import time

import libtorrent as lt

TICK_MS = 50
# A connection that came to nothing is tried again after this, and by both ends after a while.
CONNECT_AGAIN_S = 3.0
CROSS_AFTER_S = 20.0


def say(**event):
    print(json.dumps(event), flush=True)


def make(payload, torrent, piece_kib):
    files = lt.file_storage()
    lt.add_files(files, payload)
    # The first version of the format: no hash trees to be sent beside the payload.
    made = lt.create_torrent(files, piece_size=piece_kib << 10, flags=lt.create_torrent.v1_only)
    lt.set_piece_hashes(made, os.path.dirname(payload))
    with open(torrent, "wb") as file:
        file.write(lt.bencode(made.generate()))


def settings(listen):
    category = lt.alert.category_t
    return {
        "listen_interfaces": listen,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_incoming_utp": False,
        "enable_outgoing_utp": False,
        "upload_rate_limit": 0,
        "download_rate_limit": 0,
        # Everybody may download from everybody: with the default of 8 slots the seed leaves half of 16 peers waiting for 15 s.
        "unchoke_slots_limit": -1,
        # Before t0 nobody downloads: such connections would count as useless.
        "close_redundant_connections": False,
        "connections_limit": 1000,
        "connection_speed": 200,
        "torrent_connect_boost": 200,
        "min_reconnect_time": 1,
        "in_enc_policy": int(lt.enc_policy.pe_disabled),
        "out_enc_policy": int(lt.enc_policy.pe_disabled),
        "alert_mask": int(category.status_notification | category.error_notification | category.storage_notification),
    }


def address(peer):
    return ipaddress.ip_address(peer[0])


class Peer:
    def __init__(self, options):
        self.options = options
        self.peers = [(peer.rsplit(":", 1)[0], int(peer.rsplit(":", 1)[1])) for peer in options.peers.split(",") if peer]
        self.own = address(options.listen.rsplit(":", 1))
        self.session = lt.session(settings(options.listen))
        torrent = lt.add_torrent_params()
        torrent.ti = lt.torrent_info(options.torrent)
        torrent.save_path = options.save
        flags = lt.torrent_flags.default_flags & ~lt.torrent_flags.auto_managed & ~lt.torrent_flags.paused
        if options.seed:
            flags |= lt.torrent_flags.seed_mode
            if options.super_seeding:
                flags |= lt.torrent_flags.super_seeding
        else:
            flags |= lt.torrent_flags.upload_mode
        torrent.flags = flags | lt.torrent_flags.disable_dht | lt.torrent_flags.disable_lsd | lt.torrent_flags.disable_pex
        self.path = os.path.join(options.save, torrent.ti.files().file_path(0))
        self.torrent = self.session.add_torrent(torrent)
        self.stopping = False
        signal.signal(signal.SIGTERM, self.stop)

    def stop(self, *_):
        self.stopping = True

    def connected(self):
        pending = lt.peer_info.handshake | lt.peer_info.connecting
        return {peer.ip[0] for peer in self.torrent.get_peer_info() if not peer.flags & pending}

    def connect(self):
        """Connects to everybody. Of two ends the lower address begins: two connections that cross are both dropped as duplicates."""
        begun = tried_at = time.monotonic()
        missing = self.peers
        self.ask([peer for peer in missing if address(peer) > self.own])
        while missing and not self.stopping:
            self.session.wait_for_alert(TICK_MS)
            self.session.pop_alerts()
            connected = self.connected()
            missing = [peer for peer in self.peers if peer[0] not in connected]
            now = time.monotonic()
            if now - tried_at > CONNECT_AGAIN_S:
                self.ask(missing if now - begun > CROSS_AFTER_S else [peer for peer in missing if address(peer) > self.own])
                tried_at = now

    def ask(self, peers):
        for peer in peers:
            self.torrent.connect_peer(peer)

    def run(self):
        self.connect()
        say(event="ready", connections=len(self.connected()))
        if not self.options.seed:
            self.wait_for_t0()
            self.torrent.unset_flags(lt.torrent_flags.upload_mode)
        while not self.stopping:
            self.session.wait_for_alert(TICK_MS)
            for alert in self.session.pop_alerts():
                if isinstance(alert, lt.torrent_finished_alert) and not self.options.seed:
                    say(event="completed", path=self.path, at=time.time())
                elif isinstance(alert, (lt.torrent_error_alert, lt.file_error_alert)):
                    sys.exit(alert.message())
        self.end()

    def wait_for_t0(self):
        while not self.stopping:
            try:
                with open(self.options.t0) as file:
                    at = float(file.read())
                time.sleep(max(0.0, at - time.time()))
                return
            except FileNotFoundError:
                time.sleep(0.02)

    def end(self):
        say(event="stopped", payload_bytes=self.torrent.status().total_payload_upload)
        self.session.pause()
        self.torrent.flush_cache()
        ends_at = time.monotonic() + 2
        while time.monotonic() < ends_at:
            self.session.wait_for_alert(TICK_MS)
            if any(isinstance(alert, lt.cache_flushed_alert) for alert in self.session.pop_alerts()):
                break
        # The session's own way out waits for trackers, of which there are none.
        sys.stdout.flush()
        os._exit(0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--make", metavar="PAYLOAD", help="make the torrent file of this file, and end")
    parser.add_argument("--piece-kib", type=int, default=64)
    parser.add_argument("--torrent", required=True)
    parser.add_argument("--save", help="the folder that the payload is in, or comes to")
    parser.add_argument("--listen")
    parser.add_argument("--peers", default="", help="ADDRESS:PORT of everybody else, separated by commas")
    parser.add_argument("--t0", help="the file that will hold t0, in seconds since the Unix epoch")
    parser.add_argument("--seed", action="store_true")
    parser.add_argument("--super-seeding", action="store_true")
    options = parser.parse_args()
    if options.make:
        make(options.make, options.torrent, options.piece_kib)
    else:
        Peer(options).run()


if __name__ == "__main__":
    main()
