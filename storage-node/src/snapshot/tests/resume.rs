//! Snapshots over connections that break.

use super::*;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Passes connections on to an address, each for so many bytes on the way there.
async fn breaking_link(to: String, bytes_max: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(&to).await else { return };
            tokio::spawn(pass(near, far, bytes_max));
        }
    });
    address
}

async fn pass(near: TcpStream, far: TcpStream, bytes_max: usize) {
    let (mut near_in, mut near_out) = near.into_split();
    let (mut far_in, mut far_out) = far.into_split();
    let there = async {
        let (mut buffer, mut left) = (vec![0; 64 << 10], bytes_max);
        while left > 0 {
            let Ok(read @ 1..) = near_in.read(&mut buffer).await else { return };
            let read = read.min(left);
            left -= read;
            if far_out.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    let back = tokio::io::copy(&mut far_in, &mut near_out);
    // Both ends are closed with whichever way ends first.
    tokio::select! {
        () = there => {}
        _ = back => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_goes_on_where_its_stream_broke() {
    let pair = Pair::start(settings(), false).await;
    // All of it is more than one connection carries.
    let link = breaking_link(pair.address.clone(), 7 << 19).await;
    pair.addresses.set(HashMap::from([(NodeId(2), link.to_string())]));
    assert!(pair.send().await);
    assert_eq!(sum(pair.target.as_ref()), sum(pair.source.as_ref()));
    assert_eq!(pair.staged(), 0);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_goes_on_with_is_dropped() {
    let brief = SnapshotSettings {
        stall_timeout: Period(Duration::from_millis(300)),
        receives_max: 1,
        ..settings()
    };
    let pair = Pair::start(brief, false).await;
    // Its largest chunk does not pass, however often it is tried.
    let link = breaking_link(pair.address.clone(), 2 << 20).await;
    pair.addresses.set(HashMap::from([(NodeId(2), link.to_string())]));
    assert!(!pair.send().await);
    timeout(LIMIT, async {
        while pair.staged() > 0 {
            // tidy: the condition is a folder, within the limit.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("its folder goes");
    // Its place is free again.
    pair.addresses.set(HashMap::from([(NodeId(2), pair.address.clone())]));
    assert!(pair.send().await);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_another_snapshot_is_refused() {
    let pair = Pair::start(settings(), false).await;
    let mut rest = header(identity(1));
    if let Some(Part::Header(header)) = &mut rest.part {
        header.first_chunk = 3;
    }
    let refused = call(&pair.address, vec![rest]).await.expect_err("refused");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert_eq!(pair.staged(), 0);
    pair.stop().await;
}
