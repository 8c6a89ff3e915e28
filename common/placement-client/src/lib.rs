//! How storage nodes and gateways talk to placement.
