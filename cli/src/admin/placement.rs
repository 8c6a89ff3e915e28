//! `admin placement`. Owns: the placement quorum as a list, and changes of it.

use super::{Admin, read, written};
use crate::exit::Failure;
use crate::output;
use rangedb_proto::v1::{
    AddPlacementRequest, ListPlacementRequest, PlacementMember, RemovePlacementRequest,
};
use serde::Serialize;

#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Members of the quorum and their roles
    List,
    /// Add a member: it must be running, with this id
    Add {
        #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        id: u64,
        /// Where the others reach it
        #[arg(value_name = "HOST:PORT")]
        address: String,
    },
    /// Remove a member
    Remove {
        #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        id: u64,
    },
}

#[derive(Debug, Serialize)]
pub struct MemberJson {
    id: u64,
    address: String,
    role: String,
}

impl MemberJson {
    pub fn new(member: &PlacementMember) -> Self {
        Self { id: member.id, address: member.address.clone(), role: member.role.clone() }
    }
}

pub async fn run(action: Action, mut admin: Admin) -> Result<(), Failure> {
    let answer = match action {
        Action::List => {
            let request = admin.request(ListPlacementRequest {});
            read(admin.client.list_placement(request).await)?
        }
        Action::Add { id, address } => {
            let request = admin.request(AddPlacementRequest { id, address });
            written(admin.client.add_placement(request).await)?
        }
        Action::Remove { id } => {
            let request = admin.request(RemovePlacementRequest { id });
            written(admin.client.remove_placement(request).await)?
        }
    };
    let members: Vec<_> = answer.members.iter().map(MemberJson::new).collect();
    output::print(admin.output, &members, |members| text(members))
}

pub fn text(members: &[MemberJson]) -> String {
    let row = |member: &MemberJson| {
        vec![member.id.to_string(), member.address.clone(), member.role.clone()]
    };
    output::table(&["PLACEMENT", "ADDRESS", "ROLE"], members.iter().map(row))
}
