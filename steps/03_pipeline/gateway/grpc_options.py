"""How a gRPC channel behaves: the library retries, spreads calls and checks health by these options."""

import json

# Each call brings a shorter deadline than 60 s. A prediction changes nothing, so it is safe to repeat; a replica that
# has refused a call or is late with it is not asked again. A replica that reports by grpc.health.v1 that it cannot
# serve gets no calls; one without that service counts as able to.
SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": ""},
    "methodConfig": [
        {
            "name": [{}],
            "timeout": "60s",
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.02s",
                "maxBackoff": "0.04s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],  # CANCELLED by a server that stops
            },
        }
    ],
}
OPTIONS: dict[str, str | int] = {
    "grpc.service_config": json.dumps(SERVICE_CONFIG),
    "grpc.enable_http_proxy": 0,  # a proxy of this machine is for the internet
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 1000,
    "grpc.min_reconnect_backoff_ms": 500,  # how long an attempt to connect may take
    "grpc.dns_min_time_between_resolutions_ms": 500,
    "grpc.per_rpc_retry_buffer_size": 1_000_000,  # a larger call is not repeated; 1,024 rows of 64 have 262,179 bytes
    # Pings find a connection whose other end no longer answers. The last option is how long grpcio 1.85 waits for the
    # answer to a ping. Without it, we measured a wait of a minute.
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.http2.max_pings_without_data": 0,  # no limit
    "grpc.keepalive_timeout_ms": 2000,
    "grpc.http2.ping_timeout_ms": 2000,
}
