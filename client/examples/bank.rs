//! Transfers between accounts that lie anywhere in the cluster: no money comes or goes, whoever else is at
//! work.
//!
//! ```sh
//! make run                                                   # in another terminal
//! cargo run --example bank -- 127.0.0.1:8081 alice bob 10
//! ```

use rangedb_client::{Client, Error, MayBeConflict, Transaction, TransactionOptions};

/// Why no money was moved.
#[derive(Debug)]
enum Refused {
    TooLittle { balance: i64 },
    NoNumber { key: String },
    Database(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Database(error)
    }
}

// What is a conflict is run again by `transact`; what is refused is not.
impl MayBeConflict for Refused {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Database(error) if error.is_conflict())
    }
}

async fn balance(txn: &Transaction, who: &str) -> Result<i64, Refused> {
    let key = format!("balance/{who}");
    let Some(value) = txn.get(key.clone()).await? else { return Ok(100) };
    let text = String::from_utf8_lossy(&value);
    text.parse().map_err(|_| Refused::NoNumber { key })
}

async fn transfer(client: &Client, from: &str, to: &str, amount: i64) -> Result<(), Refused> {
    let transfer = |txn: Transaction| async move {
        let (payer, payee) = (balance(&txn, from).await?, balance(&txn, to).await?);
        if payer < amount {
            return Err(Refused::TooLittle { balance: payer });
        }
        txn.put(format!("balance/{from}"), (payer - amount).to_string());
        txn.put(format!("balance/{to}"), (payee + amount).to_string());
        Ok(())
    };
    client.transact(TransactionOptions::default(), transfer).await
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, from, to, amount] = &arguments[..] else {
        eprintln!("usage: bank HOST:PORT FROM TO AMOUNT");
        return Ok(());
    };
    let Ok(amount) = amount.parse() else {
        eprintln!("the amount is a whole number");
        return Ok(());
    };
    if from == to {
        eprintln!("from one account to another");
        return Ok(());
    }
    let client = Client::connect([endpoint.as_str()]).await?;
    match transfer(&client, from, to, amount).await {
        Ok(()) => println!("{from} gave {to} {amount}"),
        Err(Refused::TooLittle { balance }) => println!("{from} has only {balance}"),
        Err(Refused::NoNumber { key }) => println!("what stands at {key} is no number"),
        Err(Refused::Database(error)) => return Err(error),
    }
    Ok(())
}
