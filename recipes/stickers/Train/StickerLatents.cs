using OpenSora.Models;
using OpenSora.Text;
using OpenSora.Training;

namespace Stickers;

/// <summary>Latents of stickers with tokenized captions, each kind encoded when it is first needed and then kept in a file.</summary>
/// <param name="place">The recipe and its folders.</param>
/// <param name="cancellation">Stops encoding.</param>
/// <param name="things">Only these things; null: all that are encoded.</param>
/// <param name="stage">Which frames of clips, and which motions; null: all.</param>
internal sealed class StickerLatents(Workplace place, CancellationToken cancellation, IReadOnlySet<string>? things = null, StageSettings? stage = null) : IDisposable
{
    private readonly AutoencoderKL vae = place.Vae();
    private readonly StickerSet stills = StickerSet.Stills(place.Data), clips = StickerSet.Clips(place.Data);
    private readonly ITokenizer tokenizer = SentencePieceTokenizer.Open(place.Tokenizer);
    private readonly Dictionary<string, LatentCache> caches = new(StringComparer.Ordinal);
    private readonly Dictionary<(LatentCache, int?), LatentData> made = [];

    /// <summary>Stills, on some colours each.</summary>
    public LatentData Stills => Data(StillCache, Still);

    public IReadOnlyList<IReadOnlyList<string>> StillCaptions => StillCache.Captions;

    /// <summary>The same at half the size.</summary>
    public LatentData Small => Data(Cache("small", () => new StickersOnColours(stills, place.Chosen(stills), place.Recipe.StillBackgrounds, shrink: 2)), Still);

    /// <summary>Single frames of clips.</summary>
    public LatentData OneFrames => Data(ClipCache, Clip, 1);

    /// <summary>Clips of things that move by themselves.</summary>
    public LatentData Videos => Data(ClipCache, Clip, place.Recipe.Frames);

    /// <summary>The same at half the size.</summary>
    public LatentData SmallVideos => Data(Cache("small-clips", () => new StickersOnColours(clips, place.Chosen(clips), place.Recipe.ClipBackgrounds, shrink: 2)), Clip, place.Recipe.Frames);

    /// <summary>Stills of the other things, moved.</summary>
    public LatentData Moved => MovedBy("moved", 1);

    /// <summary>The same at half the size.</summary>
    public LatentData SmallMoved => MovedBy("small-moved", 2);

    private LatentCache StillCache => Cache("stills", () => new StickersOnColours(stills, place.Chosen(stills), place.Recipe.StillBackgrounds));

    private LatentCache ClipCache => Cache("clips", () => new StickersOnColours(clips, place.Chosen(clips), place.Recipe.ClipBackgrounds));

    private Func<int, string> Still
    {
        get
        {
            var chosen = place.Chosen(stills);
            return i => stills.Items[chosen[i / place.Recipe.StillBackgrounds]].Thing;
        }
    }

    private Func<int, string> Clip
    {
        get
        {
            var chosen = place.Chosen(clips);
            return i => clips.Items[chosen[i / place.Recipe.ClipBackgrounds]].Thing;
        }
    }

    public void Dispose()
    {
        foreach (var data in made.Values)
            data.Dispose();
        foreach (var cache in caches.Values)
            cache.Dispose();
        stills.Dispose();
        clips.Dispose();
        vae.Dispose();
    }

    private LatentCache Cache(string name, Func<IClipSource> source)
    {
        if (!caches.TryGetValue(name, out var cache))
            caches[name] = cache = place.Cache(name, source(), vae, cancellation);
        return cache;
    }

    private LatentData MovedBy(string name, int shrink)
    {
        var moved = place.Moved(stills, clips, shrink);
        return Data(Cache(name, () => moved), i => stills.Items[moved.Clips[i].Sticker].Thing, place.Recipe.Frames,
            i => stage?.Motions?.Contains(moved.Clips[i].Motion.Phrase, StringComparer.Ordinal) != false);
    }

    private LatentData Data(LatentCache cache, Func<int, string> thingOf, int? frames = null, Func<int, bool>? taken = null)
    {
        if (!made.TryGetValue((cache, frames), out var data))
        {
            var some = Enumerable.Range(0, cache.Captions.Count).Where(i => things?.Contains(thingOf(i)) != false && taken?.Invoke(i) != false);
            var interval = frames > 1 ? stage?.FrameInterval ?? 1 : 1;
            made[(cache, frames)] = data = new LatentData(cache, tokenizer, place.Recipe.Tokens, some) { Frames = (frames - 1) / interval + 1, FrameInterval = interval };
        }
        return data;
    }
}
