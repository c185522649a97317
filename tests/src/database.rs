//! A database of its own for every test, made and dropped with `psql`, which every Postgres installation brings.

use std::io::Write;
use std::process::{Command, Stdio};

#[derive(Debug)]
pub struct Database {
    admin_url: String,
    name: String,
}

impl Database {
    pub fn create() -> Self {
        let admin_url = std::env::var("DATABASE_URL").expect("DATABASE_URL is not set: run the tests by `cargo xtask test`");
        let name = format!("spillway_e2e_{}", uuid::Uuid::now_v7().simple());
        let database = Self { admin_url, name };
        database.execute(&database.admin_url, &format!("CREATE DATABASE {}", database.name));
        database
    }

    /// The address of this database.
    pub fn url(&self) -> String {
        let (address, query) =
            self.admin_url.split_once('?').map_or((self.admin_url.as_str(), None), |(address, query)| (address, Some(query)));
        let authority_at = address.find("://").map_or(0, |at| at + 3);
        let end = address[authority_at..].find('/').map_or(address.len(), |at| authority_at + at);
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        format!("{}/{}{query}", &address[..end], self.name)
    }

    /// Another database with the same contents; nobody may be connected to this one.
    pub fn copy(&self) -> Self {
        let copy = Self { admin_url: self.admin_url.clone(), name: format!("spillway_e2e_{}", uuid::Uuid::now_v7().simple()) };
        self.execute(&self.admin_url, &format!("CREATE DATABASE {} TEMPLATE {}", copy.name, self.name));
        copy
    }

    /// Runs statements behind the service's back, each as it comes; answers the rows, their columns between bars.
    pub fn run(&self, sql: &str) -> String {
        self.execute(&self.url(), sql)
    }

    fn execute(&self, url: &str, sql: &str) -> String {
        let mut psql = Command::new("psql");
        psql.args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", "--dbname", url]);
        let mut psql = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("psql starts");
        psql.stdin.take().expect("its input").write_all(sql.as_bytes()).expect("it reads");
        let output = psql.wait_with_output().expect("psql ends");
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("SPILLWAY_KEEP").is_some() {
            eprintln!("kept {}", self.url());
            return;
        }
        self.execute(&self.admin_url, &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
    }
}
