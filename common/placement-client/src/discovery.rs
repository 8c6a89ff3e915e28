//! One search for the leader: ask every known member at once, follow the names they give, and
//! believe only a member that says so of itself.

use crate::client::{Leader, PlacementClient, placement_client};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use rangedb_proto::internal::v1::{HelloRequest, HelloResponse};
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::transport::Channel;

const HELLO_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the claim of a leader that failed last is held back in favour of another's.
const GRACE: Duration = Duration::from_millis(150);

struct Answer {
    address: String,
    result: Result<(Channel, HelloResponse), String>,
}

impl PlacementClient {
    /// # Errors
    /// In words, why none of the members was it.
    pub(crate) async fn search_once(&self) -> Result<Leader, String> {
        let mut asked = self.addresses();
        asked.dedup();
        if asked.is_empty() {
            return Err("no placement address was given".to_owned());
        }
        let failed = self.failed_address();
        let mut answers: FuturesUnordered<_> =
            asked.iter().cloned().map(|address| self.hello(address)).collect();
        let mut fallback: Option<(String, Channel)> = None;
        let mut limit = Instant::now() + 2 * HELLO_TIMEOUT;
        let mut reason = String::from("no member answered");
        while let Ok(Some(answer)) = timeout_at(limit, answers.next()).await {
            let (channel, hello) = match answer.result {
                Ok(answered) => answered,
                Err(why) => {
                    reason = why;
                    continue;
                }
            };
            for member in &hello.members {
                self.learn(&member.address);
            }
            if hello.leader_address.is_empty() {
                reason = format!("{} knows no leader", answer.address);
            } else if !claims_itself(&answer.address, &hello) {
                reason = format!("{} is said to lead and does not", hello.leader_address);
                if !asked.contains(&hello.leader_address) {
                    asked.push(hello.leader_address.clone());
                    answers.push(self.hello(hello.leader_address));
                }
            } else if failed.as_ref() == Some(&answer.address) && !answers.is_empty() {
                // It may not have noticed yet that it was deposed: another's claim goes first.
                fallback = Some((answer.address, channel));
                limit = Instant::now() + GRACE;
            } else {
                return Ok(self.found(&answer.address, channel));
            }
        }
        match fallback {
            Some((address, channel)) => Ok(self.found(&address, channel)),
            None => Err(reason),
        }
    }

    async fn hello(&self, address: String) -> Answer {
        let result = match self.channel(&address) {
            Ok(channel) => {
                let mut client = placement_client(channel.clone());
                match timeout(HELLO_TIMEOUT, client.hello(HelloRequest {})).await {
                    Ok(Ok(response)) => Ok((channel, response.into_inner())),
                    Ok(Err(status)) => Err(format!("{address}: {}", status.message())),
                    Err(_) => Err(format!("{address} did not answer")),
                }
            }
            Err(why) => Err(why),
        };
        Answer { address, result }
    }
}

/// True if the member that answered is the one it names as the leader. What it is called may differ
/// from what was dialled.
fn claims_itself(dialled: &str, hello: &HelloResponse) -> bool {
    let own = hello.members.iter().find(|member| member.id == hello.member_id);
    hello.leader_address == dialled
        || own.is_some_and(|member| member.address == hello.leader_address)
}
