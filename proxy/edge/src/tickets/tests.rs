use super::*;

fn keys(epoch: u64) -> Arc<TicketKeys> {
    let keys = unlatch_protocol::TicketKeys {
        epoch,
        seconds_left: 60,
        previous: &[1; 32],
        current: &[2; 32],
    };
    let state = State {
        keys: MaskedKeys::new(&keys),
        ask_at: u64::MAX,
    };
    Arc::new(TicketKeys {
        guard: Arc::new(Guard::new(1, 0, Vec::new()).unwrap()),
        tag: [7; NODE_TAG_BYTES],
        state: Mutex::new(state),
    })
}

fn ticketer(keys: Arc<TicketKeys>, name: &str, client_ca: Option<&str>) -> Ticketer {
    let policy = Policy {
        seconds: 60,
        is_fleet: true,
    };
    Ticketer::new(keys, policy, &[name.to_owned()], client_ca)
}

const SESSION: &[u8] = &[0, 3, 4, 9, 9, 9];

#[test]
fn ticket_opens_for_the_same_names_and_clients_only() {
    let keys = keys(5);
    let ticket = ticketer(Arc::clone(&keys), "a.example", Some("CA"))
        .encrypt(SESSION)
        .unwrap();
    let open = |listener, ca| ticketer(Arc::clone(&keys), listener, ca).decrypt(&ticket);

    assert_eq!(Some(SESSION.to_vec()), open("a.example", Some("CA")));
    assert_eq!(None, open("b.example", Some("CA")));
    assert_eq!(None, open("a.example", Some("other CA")));
    assert_eq!(None, open("a.example", None));
}

#[test]
fn ticket_with_any_changed_bit_is_refused() {
    let ticketer = ticketer(keys(5), "a.example", None);
    let ticket = ticketer.encrypt(SESSION).unwrap();
    for bit in 0..ticket.len() * 8 {
        let mut changed = ticket.clone();
        changed[bit / 8] ^= 1 << (bit % 8);

        assert_eq!(None, ticketer.decrypt(&changed), "bit {bit}");
    }
    assert_eq!(None, ticketer.decrypt(&ticket[..HEAD - 1]));
}

#[test]
fn other_epochs_have_other_keys() {
    let ticket = ticketer(keys(5), "a.example", None)
        .encrypt(SESSION)
        .unwrap();
    // In epoch 6 this test's key of epoch 5 is another one, in epoch 7 there is none any more.
    for epoch in [4, 6, 7] {
        assert_eq!(
            None,
            ticketer(keys(epoch), "a.example", None).decrypt(&ticket),
            "epoch {epoch}"
        );
    }
}

#[test]
fn only_tls13_sessions_get_tickets() {
    let ticketer = ticketer(keys(5), "a.example", None);

    assert!(ticketer.encrypt(&[1, 2, b'h', b'i', 3, 4, 0]).is_some());
    for session in [
        &[0, 3, 3, 0][..],
        &[1, 2, b'h', b'i', 3, 3],
        &[1, 200, 3, 4],
        &[],
    ] {
        assert_eq!(None, ticketer.encrypt(session));
    }
}

#[test]
fn without_keys_there_are_no_tickets() {
    let guard = Arc::new(Guard::new(1, 0, Vec::new()).unwrap());
    let ticketer = ticketer(Arc::new(TicketKeys::new(guard, "n")), "a.example", None);

    assert_eq!(None, ticketer.encrypt(SESSION));
    assert_eq!(None, ticketer.decrypt(&[VERSION; 80]));
}

#[test]
fn keys_of_another_node_do_not_open_a_ticket_that_says_it_is_ours() {
    let ticket = ticketer(keys(5), "a.example", None)
        .encrypt(SESSION)
        .unwrap();
    let mut other = keys(5);
    Arc::get_mut(&mut other).unwrap().tag = [8; NODE_TAG_BYTES];

    // Guard, which could tell, is not there.
    assert_eq!(
        None,
        ticketer(Arc::clone(&other), "a.example", None).decrypt(&ticket)
    );
    let mut renamed = ticket;
    renamed[1..=NODE_TAG_BYTES].fill(8);
    assert_eq!(None, ticketer(other, "a.example", None).decrypt(&renamed));
}

#[test]
fn names_count_in_any_order_and_case() {
    let policy = Policy {
        seconds: 60,
        is_fleet: false,
    };
    let names = |names: &[&str]| {
        names
            .iter()
            .map(|&name| name.to_owned())
            .collect::<Vec<_>>()
    };
    let one = Ticketer::new(keys(5), policy, &names(&["a", "B"]), None);
    let other = Ticketer::new(keys(5), policy, &names(&["b", "A", "a"]), None);

    assert_eq!(
        Some(SESSION.to_vec()),
        other.decrypt(&one.encrypt(SESSION).unwrap())
    );
}

#[test]
fn keys_are_wiped_when_their_epoch_passes() {
    let keys = keys(5);
    keys.expire();
    assert!(keys.state().keys.is_some());
    keys.state().ask_at = 0;
    keys.expire();
    assert!(keys.state().keys.is_none());
}
