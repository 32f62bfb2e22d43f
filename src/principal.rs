//! Who is asking: in the embedded profile, whoever holds the data directory.

/// The user of this process as the log names it: `local:<name>`, or `local:<number>` where the number has no name.
///
/// The name comes from the system's user table and not from the environment, which anybody can set.
pub(crate) fn local() -> String {
    let id = rustix::process::getuid().as_raw();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    match name_of(&users, id) {
        Some(name) => format!("local:{name}"),
        None => format!("local:{id}"),
    }
}

fn name_of(users: &str, id: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let number = fields.nth(1)?.parse::<u32>().ok()?;
        (number == id).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_user_table() {
        let users = "root:x:0:0:root:/root:/bin/bash\n+::\nhub:x:998:998::/srv:/bin/false\n";
        assert_eq!(name_of(users, 998), Some("hub"));
        assert_eq!(name_of(users, 0), Some("root"));
        assert_eq!(name_of(users, 7), None);
    }
}
