//! Outgoing clients, one small trait each.
