namespace OpenSora.Preparation.Manifests;

/// <summary>The style of the statistics page, for light and dark displays of any width.</summary>
internal static class PageStyle
{
    internal const string Css = """
        :root { color-scheme: light dark; --page: #f4f5f7; --card: #fff; --ink: #1a1d23; --soft: #5a6270; --grid: #e1e4e9; --bar: #2f6bd8; --drop: #c2571a }
        @media (prefers-color-scheme: dark) {
          :root { --page: #121418; --card: #1c1f25; --ink: #e9ebef; --soft: #a0a8b5; --grid: #343a44; --bar: #6d9ff5; --drop: #ee9560 }
        }
        * { box-sizing: border-box }
        body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1rem 3rem; background: var(--page); color: var(--ink);
          font: 15px/1.45 system-ui, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", sans-serif; overflow-wrap: anywhere }
        h1 { margin: 0; font-size: 1.6rem; line-height: 1.2 }
        h2 { margin: 2.2rem 0 .8rem; font-size: 1.15rem }
        p, small, dt { color: var(--soft) }
        dl, .charts, .sheet { display: grid; gap: .8rem; margin: 0 }
        dl { margin-top: 1.2rem; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)) }
        dl div, figure { margin: 0; padding: .8rem .9rem; background: var(--card); border: 1px solid var(--grid); border-radius: .5rem }
        dt { font-size: .82rem }
        dd { margin: 0; font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums }
        dd small { font-size: .8rem; font-weight: 400 }
        .charts { grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)) }
        figcaption { font-weight: 600 }
        figcaption small { font-weight: 400 }
        figure > p { margin: .3rem 0 0; font-size: .82rem }
        svg { display: block; width: 100%; margin-top: .5rem }
        svg rect { fill: var(--bar) }
        svg .grid { stroke: var(--grid) }
        svg text { fill: var(--soft); font-size: 11px; font-variant-numeric: tabular-nums }
        .bars { margin: .6rem 0 0; padding: 0; list-style: none; font-size: .88rem }
        .bars li { display: grid; grid-template-columns: minmax(0, 9.5rem) minmax(2rem, 1fr) 3.8rem; gap: .6rem; align-items: center; padding: .1rem 0 }
        .bars.wide li { grid-template-columns: minmax(0, 2fr) minmax(2rem, 3fr) 4.5rem }
        .bars i { height: .7rem }
        .bars b { display: block; height: 100%; min-width: 1px; border-radius: 2px; background: var(--bar) }
        .bars.dropped b { background: var(--drop) }
        .bars em { font-style: normal; text-align: right; font-variant-numeric: tabular-nums }
        .sheet { grid-template-columns: repeat(auto-fill, minmax(min(100%, 13.5rem), 1fr)) }
        .sheet figure { padding: 0; overflow: hidden }
        .sheet img, .sheet .none { display: grid; place-items: center; width: 100%; aspect-ratio: 16 / 9; object-fit: contain; background: #0b0c0e;
          color: #a0a8b5; font-size: .85rem; padding: 0; text-align: center }
        .sheet figcaption { padding: .55rem .7rem .2rem; font-weight: 400; font-size: .88rem }
        .sheet p { margin: 0; padding: 0 .7rem .6rem; font-size: .76rem }
        @media (max-width: 30rem) { .sheet { grid-template-columns: 1fr 1fr; gap: .5rem } body { padding: 1rem .7rem 2rem } }
        """;
}
