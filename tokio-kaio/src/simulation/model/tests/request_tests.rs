//! Requests: data, errors, times, the trace.
