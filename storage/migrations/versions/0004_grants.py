"""Grants: what the daemon and people's tools may do. `factoryd init` makes the two roles."""

from alembic import op

revision = "0004"
down_revision = "0003"

# No grants on partitions: readings are written and read through their parent. No DELETE on readings: removing
# them is the owner's (retention). Identity columns need no grant on their sequences.
DAEMON = """
GRANT USAGE ON SCHEMA public TO factoryd_daemon;
GRANT SELECT, INSERT, UPDATE ON users, devices, sensor_readings, alerts, ota_versions, ota_deployments, daemon_state
    TO factoryd_daemon;
GRANT SELECT, INSERT, UPDATE, DELETE ON alert_thresholds, device_latest, device_sequences, device_credentials, quarantine
    TO factoryd_daemon;
GRANT SELECT ON cache_versions, alembic_version TO factoryd_daemon;
"""

# Not for reading by people: password hashes, device secrets, and the secret client ids in daemon_state.
TOOLS = """
GRANT USAGE ON SCHEMA public TO factoryd_tools;
GRANT SELECT (id, email, name, role, login, created_at, updated_at) ON users TO factoryd_tools;
GRANT SELECT ON devices, sensor_readings, alerts, alert_thresholds, ota_versions, ota_deployments, device_latest,
    device_sequences, quarantine, cache_versions, alembic_version TO factoryd_tools;
"""


def upgrade() -> None:
    op.execute(DAEMON)
    op.execute(TOOLS)
