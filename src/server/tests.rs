//! A real server on port 0: health, probes, errors of the transport, drain.
