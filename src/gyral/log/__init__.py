"""The durable event log: what an acknowledgement stands on."""
