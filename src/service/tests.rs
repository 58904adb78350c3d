//! Status mapping and exchange protocol faults, against the log in memory.
