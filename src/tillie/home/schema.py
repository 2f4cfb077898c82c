"""The home's tables, as migrations: one SQL script a version, never changed once released.

Every table is keyed by a user, or by another server, first, so that a large home can be cut along its users. Times are
milliseconds. JSON is kept as the bytes that were signed or sent.
"""

from __future__ import annotations

MIGRATIONS = (
    """
    CREATE TABLE users (
        user_id TEXT PRIMARY KEY,
        password_hash TEXT NOT NULL,
        created_ts BIGINT NOT NULL,
        next_news BIGINT NOT NULL DEFAULT 1,       -- position of the next row of news
        list_sequence BIGINT NOT NULL DEFAULT 0    -- of the device list's last change
    );
    CREATE TABLE devices (
        user_id TEXT NOT NULL,
        device_id TEXT NOT NULL,
        display_name TEXT,
        created_ts BIGINT NOT NULL,
        next_message BIGINT NOT NULL DEFAULT 1,    -- position of the next to-device message
        next_key BIGINT NOT NULL DEFAULT 1,        -- position of the next one-time key
        PRIMARY KEY (user_id, device_id)
    );
    CREATE TABLE tokens (
        user_id TEXT NOT NULL,
        token_hash BYTEA NOT NULL,
        device_id TEXT NOT NULL,
        created_ts BIGINT NOT NULL,
        PRIMARY KEY (user_id, token_hash)
    );
    CREATE TABLE device_keys (
        user_id TEXT NOT NULL,
        device_id TEXT NOT NULL,
        profile TEXT NOT NULL,                     -- v1 or draft2015
        json BYTEA NOT NULL,
        PRIMARY KEY (user_id, device_id, profile)
    );
    CREATE TABLE one_time_keys (
        user_id TEXT NOT NULL,
        device_id TEXT NOT NULL,
        algorithm TEXT NOT NULL,
        position BIGINT NOT NULL,                  -- the order of uploads
        key_id TEXT NOT NULL,
        public BYTEA NOT NULL,                     -- the 32 bytes: what makes two keys the same
        json BYTEA NOT NULL,
        PRIMARY KEY (user_id, device_id, algorithm, position)
    );
    CREATE TABLE issued_keys (                     -- a key that was given out is never taken again
        user_id TEXT NOT NULL,
        device_id TEXT NOT NULL,
        algorithm TEXT NOT NULL,
        key_id TEXT NOT NULL,
        public BYTEA NOT NULL,
        PRIMARY KEY (user_id, device_id, algorithm, key_id)
    );
    CREATE TABLE fallback_keys (
        user_id TEXT NOT NULL,
        device_id TEXT NOT NULL,
        algorithm TEXT NOT NULL,
        key_id TEXT NOT NULL,
        public BYTEA NOT NULL,
        json BYTEA NOT NULL,
        used INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (user_id, device_id, algorithm)
    );
    CREATE TABLE messages (                        -- to-device, until they were delivered
        user_id TEXT NOT NULL,
        device_id TEXT NOT NULL,
        position BIGINT NOT NULL,
        json BYTEA NOT NULL,                       -- the event as /sync gives it
        PRIMARY KEY (user_id, device_id, position)
    );
    CREATE TABLE requests (                        -- PUTs with a transaction id that were answered
        user_id TEXT NOT NULL,
        device_id TEXT NOT NULL,
        path TEXT NOT NULL,
        created_ts BIGINT NOT NULL,
        PRIMARY KEY (user_id, device_id, path)
    );
    CREATE TABLE watched (                         -- whose device lists a local user wants to hear of
        user_id TEXT NOT NULL,                     -- the one who is watched
        watcher TEXT NOT NULL,
        PRIMARY KEY (user_id, watcher)
    );
    CREATE TABLE news (                            -- for a local user: whose device list changed, and when last
        user_id TEXT NOT NULL,
        changed TEXT NOT NULL,
        position BIGINT NOT NULL,
        PRIMARY KEY (user_id, changed)
    );
    CREATE INDEX news_positions ON news (user_id, position);
    CREATE TABLE interested_servers (              -- which servers hear of a local user's device list, and until when
        user_id TEXT NOT NULL,
        server TEXT NOT NULL,
        until_ts BIGINT NOT NULL,
        PRIMARY KEY (user_id, server)
    );
    CREATE TABLE statements (                      -- by this home and by others
        user_id TEXT NOT NULL,
        sequence BIGINT NOT NULL,
        hash BYTEA NOT NULL,
        json BYTEA NOT NULL,
        seen_ts BIGINT NOT NULL,
        PRIMARY KEY (user_id, sequence, hash)
    );
    CREATE TABLE remote_lists (                    -- what is known of users of other servers
        user_id TEXT PRIMARY KEY,
        sequence BIGINT NOT NULL,                  -- stream_id of the newest change that is in `json`
        json BYTEA NOT NULL,                       -- their device map
        fetched_ts BIGINT NOT NULL,
        followed_until_ts BIGINT NOT NULL,         -- until when their server tells us of changes (0: it does not)
        is_stale INTEGER NOT NULL DEFAULT 0,
        is_stated INTEGER NOT NULL DEFAULT 0       -- their server signs statements
    );
    CREATE TABLE servers (                         -- keys of other servers, and whether they answer
        server TEXT PRIMARY KEY,
        keys BYTEA,                                -- JSON: {key id: key}
        valid_until_ts BIGINT NOT NULL DEFAULT 0,
        failures BIGINT NOT NULL DEFAULT 0,
        retry_ts BIGINT NOT NULL DEFAULT 0
    );
    CREATE TABLE outgoing (                        -- EDUs that wait for another server, in their order
        server TEXT NOT NULL,
        position BIGINT NOT NULL,
        json BYTEA NOT NULL,
        created_ts BIGINT NOT NULL,
        transaction_id TEXT,                       -- of the one transaction that is under way with it
        PRIMARY KEY (server, position)
    );
    CREATE TABLE incoming (                        -- transactions and messages of other servers that were taken
        server TEXT NOT NULL,
        kind TEXT NOT NULL,                        -- transaction or message
        id TEXT NOT NULL,
        received_ts BIGINT NOT NULL,
        PRIMARY KEY (server, kind, id)
    );
    CREATE INDEX incoming_ages ON incoming (server, received_ts)
    """,
)
