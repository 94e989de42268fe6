//! Whatever is changed about a good token, it is not good any more.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

/// One change: at a place (in thousandths of the token), put in, take out or replace.
#[derive(Clone, Debug)]
enum Change {
    Replace(u16, u8),
    Insert(u16, u8),
    Remove(u16),
    Cut(u16),
    Swap(u16, u16),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let at = || 0..1_000_u16;
    // What tokens are made of, and a little else.
    let byte =
        || prop_oneof![9 => proptest::sample::select(b"ABCXYZabcxyz0189-_.".to_vec()), 1 => 32..127_u8];
    let change = prop_oneof![
        6 => (at(), byte()).prop_map(|(at, byte)| Change::Replace(at, byte)),
        2 => (at(), byte()).prop_map(|(at, byte)| Change::Insert(at, byte)),
        2 => at().prop_map(Change::Remove),
        1 => at().prop_map(Change::Cut),
        1 => (at(), at()).prop_map(|(a, b)| Change::Swap(a, b)),
    ];
    proptest::collection::vec(change, 1..4)
}

fn mutate(token: &str, changes: &[Change]) -> String {
    let mut bytes = token.as_bytes().to_vec();
    for change in changes {
        if bytes.is_empty() {
            break;
        }
        let place = |at: u16, len: usize| usize::from(at) * len / 1_000;
        match *change {
            Change::Replace(at, byte) => {
                let at = place(at, bytes.len());
                bytes[at] = byte;
            }
            Change::Insert(at, byte) => bytes.insert(place(at, bytes.len()), byte),
            Change::Remove(at) => drop(bytes.remove(place(at, bytes.len()))),
            Change::Cut(at) => bytes.truncate(place(at, bytes.len())),
            Change::Swap(a, b) => {
                let len = bytes.len();
                bytes.swap(place(a, len), place(b, len));
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_changed_token_is_never_accepted() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_provider, bench, tokens) = runtime.block_on(async {
        let keys = [SigningKey::rsa("r"), SigningKey::p256("e"), SigningKey::ed25519("d")];
        let provider = IdentityProvider::start(&keys.each_ref()).await;
        let bench = Bench::new(vec![issuer("idp", &provider.issuer(), KeySource::Discovery)]);
        let mut tokens: Vec<String> = keys.iter().map(|key| key.token(&claims(&provider.issuer()))).collect();
        tokens.push(bench.local_token("alice"));
        for token in &tokens {
            bench.verify(token).await.unwrap();
        }
        (provider, bench, tokens)
    });
    let mut runner = TestRunner::new(Config { cases: 2_000, failure_persistence: None, ..Config::default() });
    let cases = (0..tokens.len(), changes());
    let result = runner.run(&cases, |(which, changes)| {
        let changed = mutate(&tokens[which], &changes);
        prop_assume!(changed != tokens[which]);
        let judged = runtime.block_on(bench.verify(&changed));
        prop_assert!(judged.is_err(), "{changed}");
        Ok(())
    });
    result.unwrap();
}
