//! The subscription loop and the publisher against the log in memory, on a paused clock.
