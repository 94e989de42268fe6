use tunnel_api::Config;

use super::*;

fn limits() -> config::Alerts {
    Config::default().alerts
}

fn calm(id: &str) -> ConnectionFigures {
    ConnectionFigures {
        id: id.to_owned(),
        latency: Some(Duration::from_millis(3)),
        error_rate: Some(0.0),
        failures_in_a_row: 0,
    }
}

/// Judges the same figures for a minute.
fn lasting(alerts: &mut Alerts, figures: &Figures) -> Vec<Condition> {
    let start = Instant::now();
    (0..7).map(|i| alerts.evaluate(&limits(), figures, start + LOOK_EVERY * i)).last().unwrap()
}

#[test]
fn calm_figures_are_no_alert() {
    let figures = Figures { connections: vec![calm("a"), calm("b")], memory_bytes: Some(20 << 20) };
    assert_eq!(lasting(&mut Alerts::default(), &figures), []);
}

#[test]
fn each_alert_says_figure_threshold_and_next_step() {
    let high = ConnectionFigures {
        id: "lab".to_owned(),
        latency: Some(Duration::from_millis(6250)),
        error_rate: Some(0.125),
        failures_in_a_row: 7,
    };
    let figures = Figures { connections: vec![calm("a"), high], memory_bytes: Some(150 << 20) };
    let conditions = lasting(&mut Alerts::default(), &figures);
    let told: Vec<(&str, &str, &str)> = conditions
        .iter()
        .map(|condition| {
            let warning = &condition.warning;
            assert!(!warning.next_step.is_empty() && !warning.message.ends_with('.'));
            (warning.code.as_str(), condition.subject.as_str(), warning.message.as_str())
        })
        .collect();
    assert_eq!(
        told,
        [
            (LATENCY_HIGH, "lab", "lab takes 6250 ms to answer a probe, the threshold is 5000 ms"),
            (ERROR_RATE_HIGH, "lab", "12.5 % of the latest requests of lab failed, the threshold is 10 %"),
            (FAILURES_IN_A_ROW, "lab", "the last 7 requests of lab failed, the threshold is 5"),
            (MEMORY_HIGH, "", "tunneld holds 150 MiB of memory, the threshold is 100 MiB"),
        ]
    );
}

#[test]
fn failures_in_a_row_are_told_at_once_and_outlive_one_success_for_a_while() {
    let (mut alerts, start) = (Alerts::default(), Instant::now());
    let mut at = |s, failures_in_a_row| {
        let connection = ConnectionFigures { failures_in_a_row, ..calm("a") };
        let figures = Figures { connections: vec![connection], memory_bytes: None };
        alerts.evaluate(&limits(), &figures, start + Duration::from_secs(s)).len()
    };
    assert_eq!([at(0, 4), at(10, 5), at(20, 0), at(30, 0), at(40, 0)], [0, 1, 1, 1, 0]);
}

#[test]
fn connection_that_is_gone_takes_its_alerts_along() {
    let mut alerts = Alerts::default();
    let failing = ConnectionFigures { failures_in_a_row: 9, ..calm("a") };
    let figures = Figures { connections: vec![failing], memory_bytes: None };
    assert_eq!(alerts.evaluate(&limits(), &figures, Instant::now()).len(), 1);
    assert_eq!(alerts.evaluate(&limits(), &Figures::default(), Instant::now()), []);
    assert!(alerts.connections.is_empty());
}

#[tokio::test(start_paused = true)]
async fn alerts_follow_the_figures_and_the_configuration() {
    let (config, reader) = watch::channel(Arc::new(ConfigState::defaults()));
    let reports = Reports::new();
    let mut said = reports.follow();
    let soft = CancellationToken::new();
    let measure = || Figures { connections: Vec::new(), memory_bytes: Some(150 << 20) };
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(watch(measure, reader, reports, soft.clone()));
    said.wait_for(|said| said.values().flatten().count() == 1).await.unwrap();
    config.send_modify(|state| {
        let mut changed = Config::clone(&state.config);
        changed.alerts.memory_mb = 1000.try_into().unwrap();
        *state = Arc::new(ConfigState { config: changed.into(), ..ConfigState::clone(state) });
    });
    said.wait_for(|said| said.values().flatten().count() == 0).await.unwrap();
    soft.cancel();
    tasks.join_next().await.unwrap().unwrap();
}
