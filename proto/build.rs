//! Compiles the .proto files with no protoc installed.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let public = [
        "rangedb/v1/errors.proto",
        "rangedb/v1/key_value.proto",
        "rangedb/v1/transactions.proto",
        "rangedb/v1/admin.proto",
    ];
    let internal = [
        "rangedb/internal/v1/range.proto",
        "rangedb/internal/v1/node.proto",
        "rangedb/internal/v1/placement.proto",
        "rangedb/internal/v1/raft_command.proto",
    ];
    println!("cargo:rerun-if-changed=rangedb");
    let public_set = protox::compile(public, ["."])?;
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(format!("{out}/public.bin"), public_set.encode_to_vec())?;
    let all = protox::compile(public.iter().chain(&internal), ["."])?;
    tonic_prost_build::configure().bytes(".").compile_fds(all)?;
    Ok(())
}
