"""Envoy's configuration, whole: every limit and timeout of the transport in one place.

What Envoy would choose by itself suits a proxy at the edge of a web site; each
value here is what a gRPC server of pictures and feature maps needs. Names are
those of Envoy's API v3: https://www.envoyproxy.io/docs/envoy/latest/api-v3/api
"""

from pathlib import Path
from typing import Any

from convscope_server.config import ServerConfig

_TYPE = "type.googleapis.com/envoy"

# Between the word to stop and the last: how long Envoy says "go away" on
# connections before it takes no new ones. Refused calls are answered meanwhile.
DRAIN_TIME_S = 1

# Bytes that a caller may send ahead of what the server has read: of one call,
# and of one connection. Large enough for a full network at 10 ms, small enough
# that callers who are not read yet cannot fill the memory.
_STREAM_WINDOW_BYTES, _CONNECTION_WINDOW_BYTES = 4 << 20, 32 << 20
# Bytes of answers that wait in Envoy for one slow connection before the server
# is asked to wait; a message that has begun is always taken whole.
_CONNECTION_BUFFER_BYTES = 1 << 20
# More would be refused by the operating system sooner or later.
_MAX_CONNECTIONS = 50_000
# WINDOW_UPDATE frames for each DATA frame sent, beyond which a connection is ended.
# A reader that gives room in crumbs is slow, not hostile: reading one costs next to nothing.
_WINDOW_UPDATES_A_DATA_FRAME = 1000
# As many calls on one connection as there will never be.
_NEVER = (1 << 32) - 1
# A thread of Envoy that does nothing for this long ends the process: a
# supervisor starts another, while a hung one would hold the port for ever.
_HUNG_AFTER = "60s"


def envoy_config(
    config: ServerConfig, *, application: dict[str, Any], admin_socket: Path | str
) -> dict[str, Any]:
    """The configuration as Envoy reads it: JSON is YAML.

    Args:
        config: Where to listen, and the certificates.
        application: The HTTP filter that runs the server; pyvoy makes it.
        admin_socket: Unix socket where Envoy takes orders; its folder must be
            closed to others, since whoever reaches it can stop the server.
    """
    connection_manager = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": "grpc",
        # gRPC needs nothing else.
        "codec_type": "HTTP2",
        "http_filters": [application],
        # The application filter answers everything; there is nothing to route to.
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"]}]},
        # Nothing is added to what a servicer sees, and nothing is logged a call:
        # Prometheus counts them.
        "generate_request_id": False,
        "skip_xff_append": True,
        "use_remote_address": True,
        "access_log": [],
        # A health Watch is silent for days: no end for being idle (Envoy: 5 min),
        # for lasting long, or for a request that stays open, as streams do.
        # Deadlines are the caller's, and the application keeps them.
        "stream_idle_timeout": "0s",
        "request_timeout": "0s",
        # But headers come at once, or whoever sends them is no gRPC client.
        "request_headers_timeout": "10s",
        # Envoy tells clients twice to go away; time for calls that were on the way.
        "drain_timeout": "0.5s",
        # After an early answer, how long the rest of a request may still come.
        "delayed_close_timeout": "1s",
        # Metadata in KiB; grpc's own limit is 16.
        "max_request_headers_kb": 64,
        # A method's name is taken as it came, so that whoever filters paths before us and we
        # mean the same one.
        "normalize_path": False,
        "merge_slashes": False,
        "common_http_protocol_options": {
            "max_stream_duration": "0s",
            # Connections without calls; pings below find those whose client has gone.
            "idle_timeout": "3600s",
            # Their size bounds them already.
            "max_headers_count": 1000,
            # Allowed in gRPC's metadata.
            "headers_with_underscores_action": "ALLOW",
        },
        "http2_protocol_options": {
            # Of Envoy's two codecs the other one, nghttp2, ends a connection that resets more
            # than 1000 calls at once and 33 a second; see layered_runtime below.
            "use_oghttp2_codec": True,
            "max_concurrent_streams": config.max_concurrent_streams,
            "initial_stream_window_size": _STREAM_WINDOW_BYTES,
            "initial_connection_window_size": _CONNECTION_WINDOW_BYTES,
            # A client that vanished without a word is noticed, and its calls are
            # cancelled. Pings of clients are answered always.
            "connection_keepalive": {
                "interval": f"{config.keepalive_time_s:.3f}s",
                "timeout": f"{config.keepalive_timeout_s:.3f}s",
            },
            "max_inbound_window_update_frames_per_data_frame_sent": _WINDOW_UPDATES_A_DATA_FRAME,
            # Frames that wait for a client that does not read: the bytes that may wait
            # bound those of answers, so this is for pings and resets without end.
            "max_outbound_frames": 10_000,
            "max_outbound_control_frames": 1000,
            # No gRPC library sends either: those of Envoy, written down.
            "max_consecutive_inbound_frames_with_empty_payload": 1,
            "max_inbound_priority_frames_per_stream": 100,
            # One bad call resets its stream, not the others on its connection.
            "override_stream_error_on_invalid_http_message": True,
        },
    }
    filter_chain: dict[str, Any] = {
        "filters": [
            {
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": connection_manager,
            }
        ]
    }
    if config.tls_certificate is not None:
        filter_chain["transport_socket"] = _tls(config)
        # A client that connects and does not say hello.
        filter_chain["transport_socket_connect_timeout"] = "10s"
    watchdog = {"kill_timeout": _HUNG_AFTER, "max_kill_timeout_jitter": "0s"}
    return {
        "admin": {"address": {"pipe": {"path": str(admin_socket), "mode": 0o600}}},
        "static_resources": {
            "listeners": [
                {
                    "name": "grpc",
                    "address": {
                        "socket_address": {"address": config.host, "port_value": config.port}
                    },
                    # Clients that connect at once and wait to be taken; the kernel may allow fewer.
                    "tcp_backlog_size": 4096,
                    # Else a second server would share a taken port without a word.
                    "enable_reuse_port": False,
                    "per_connection_buffer_limit_bytes": _CONNECTION_BUFFER_BYTES,
                    "filter_chains": [filter_chain],
                }
            ]
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": f"{_TYPE}.extensions.resource_monitors"
                        ".downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": _MAX_CONNECTIONS,
                    },
                }
            ]
        },
        # Against clients that open calls only to reset them Envoy ends a connection after
        # 500 resets within their first second, if those are half of its calls. So do
        # honest callers with short deadlines, when the server is busy, and the others on
        # their connection would be lost with them.
        "layered_runtime": {
            "layers": [
                {
                    "name": "server",
                    "static_layer": {"overload.premature_reset_total_stream_count": _NEVER},
                }
            ]
        },
        "watchdogs": {"main_thread_watchdog": watchdog, "worker_watchdog": watchdog},
        # Envoy counts much that nobody reads: only what envoy_admin.py asks for.
        "stats_config": {
            "stats_matcher": {
                "inclusion_list": {
                    "patterns": [
                        {"prefix": "http.grpc.downstream_rq_active"},
                        {"prefix": "listener_manager."},
                    ]
                }
            }
        },
    }


def _tls(config: ServerConfig) -> dict[str, Any]:
    """TLS 1.2 and above with our certificate; with a client CA, mutual TLS."""
    context: dict[str, Any] = {
        "alpn_protocols": ["h2"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(config.tls_certificate)},
                "private_key": {"filename": str(config.tls_key)},
            }
        ],
    }
    mutual = config.tls_client_ca is not None
    if mutual:
        context["validation_context"] = {"trusted_ca": {"filename": str(config.tls_client_ca)}}
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPE}.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": context,
            "require_client_certificate": mutual,
        },
    }
