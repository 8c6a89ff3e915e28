//! Runtime settings take effect without a restart.

use anyhow::{Context as _, Result, ensure};
use rangedb_client::proto::{GetConfigRequest, ListConfigRequest, SetConfigRequest};
use rangedb_tests::{InProcess, admin};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_changes_at_runtime_and_nonsense_is_refused() -> Result<()> {
    let mut cluster = InProcess::start(1, 1, 1).await?;
    let client = cluster.client().await?;
    let set = |name: &str, value: &str, expected_version| SetConfigRequest {
        name: name.to_owned(),
        value: value.to_owned(),
        expected_version,
    };
    let mut operator = client.admin();
    let changed = operator.set_config(set("replication_factor", "1", 0)).await?.into_inner();
    ensure!(changed.value == "1" && changed.version > 0, "{changed:?}");
    ensure!(!changed.warning.is_empty(), "one copy is unwise");
    let get = GetConfigRequest { name: "replication_factor".to_owned() };
    ensure!(operator.get_config(get).await?.into_inner().value == "1");

    // Two more nodes would make three copies, had the setting not changed.
    cluster.add_node().await?;
    cluster.add_node().await?;
    let changed = operator
        .set_config(set("replication_factor", "3", changed.version))
        .await
        .context("the version is the current one")?
        .into_inner();
    admin::replicated(&client, 3).await?;

    let stale = operator.set_config(set("replication_factor", "5", changed.version - 1)).await;
    ensure!(
        stale.as_ref().is_err_and(|error| error.code() == Code::FailedPrecondition),
        "{stale:?}"
    );
    for value in ["0", "many", ""] {
        let bad = operator.set_config(set("replication_factor", value, 0)).await;
        ensure!(bad.as_ref().is_err_and(|error| error.code() == Code::InvalidArgument), "{bad:?}");
    }
    let unknown = operator.set_config(set("no_such_setting", "1", 0)).await;
    ensure!(unknown.as_ref().is_err_and(|error| error.code() == Code::NotFound), "{unknown:?}");
    let all = operator.list_config(ListConfigRequest {}).await?.into_inner().settings;
    ensure!(all.len() >= 4 && all.iter().all(|setting| !setting.description.is_empty()));
    cluster.finish(&[]).await
}
