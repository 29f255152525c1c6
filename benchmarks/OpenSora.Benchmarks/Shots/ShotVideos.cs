using System.Diagnostics;
using System.Globalization;
using System.Text.Json;

namespace OpenSora.Benchmarks.Shots;

/// <summary>A transition or a flash that was put into a video.</summary>
/// <param name="Kind"><c>cut</c>, <c>dissolve</c>, <c>fade</c> or <c>flash</c>.</param>
/// <param name="Start">The first frame that does not show the shot before alone.</param>
/// <param name="End">The first frame that shows the shot after alone.</param>
internal sealed record TrueEvent(string Kind, int Start, int End);

/// <summary>A video with known transitions.</summary>
internal sealed record TrueVideo(string Path, string Group, int Frames, TrueEvent[] Events);

/// <summary>Assembles videos with known transitions from a folder of footage, in which every file is one shot.</summary>
internal static class ShotVideos
{
    internal const double Rate = 25;
    internal static readonly string[] Groups = ["cuts", "fades", "dissolves", "flashes"];

    /// <summary>Assembles videos, unless they exist.</summary>
    internal static IReadOnlyList<TrueVideo> Assemble(string footage, string folder, int count, int seed, int width = 480, int height = 270)
    {
        Directory.CreateDirectory(folder);
        var clips = Directory
            .EnumerateFiles(footage)
            .Order(StringComparer.Ordinal)
            .Select(path => (Path: path, Seconds: Duration(path)))
            .Where(clip => clip.Seconds > 1.5)
            .ToArray();
        List<TrueVideo> videos = [];
        for (var i = 0; i < count; i++)
        {
            var path = Path.Combine(Path.GetFullPath(folder), $"{i:00}-{Groups[i % Groups.Length]}.mp4");
            var truth = Path.ChangeExtension(path, ".json");
            if (!File.Exists(truth))
            {
                var video = Assemble(clips, path, Groups[i % Groups.Length], new Random((seed * 1000) + i), width, height);
                File.WriteAllText(truth, JsonSerializer.Serialize(video));
                Console.Error.WriteLine($"assembled {path}: {video.Frames} frames, {video.Events.Length} events");
            }

            videos.Add(JsonSerializer.Deserialize<TrueVideo>(File.ReadAllText(truth))! with { Path = path });
        }

        return videos;
    }

    private static TrueVideo Assemble((string Path, double Seconds)[] clips, string path, string group, Random random, int width, int height)
    {
        var chosen = clips.ToArray();
        random.Shuffle(chosen);
        var shots = chosen
            .Take(10)
            .Select(clip =>
            {
                var seconds = Math.Min(clip.Seconds, 1.5 + (random.NextDouble() * 2.5));
                return Decode(["-ss", Text(random.NextDouble() * (clip.Seconds - seconds)), "-i", clip.Path], seconds, width, height);
            })
            .Append(Decode(["-f", "lavfi", "-i", Animation(random, width, height)], 2, width, height)) // animation
            .Where(shot => shot.Length >= 30)
            .ToArray();
        random.Shuffle(shots);
        List<TrueEvent> events = [];
        List<byte[]> frames = [];
        byte[][] previous = [];
        foreach (var (index, decoded) in shots.Index())
        {
            // Frames are mixed in place, so that an event changes the frames it covers.
            var shot = decoded.ToArray();
            var kind =
                index == 0 ? "start"
                : group is "fades" or "dissolves" && random.Next(3) > 0 ? group[..^1]
                : "cut";
            var length = kind is "cut" or "start" ? 0 : random.Next(4, 15) * 2;
            length = Math.Min(length, Math.Min(shot.Length, previous.Length) / 2);
            if (kind is "dissolve")
            {
                events.Add(new(kind, frames.Count - length, frames.Count));
                for (var i = 0; i < length; i++)
                {
                    var at = frames.Count - length + i;
                    frames[at] = Mix(frames[at], shot[i], (i + 1.0) / (length + 1));
                }

                shot = shot[length..];
            }
            else if (kind is "fade")
            {
                // To black, or sometimes to white, with a few blank frames in the middle.
                var blank = new byte[shot[0].Length];
                Array.Fill(blank, random.Next(5) == 0 ? (byte)255 : (byte)0);
                var (start, pause) = (frames.Count - length, random.Next(1, 8));
                for (var i = 0; i < length; i++)
                {
                    frames[start + i] = Mix(frames[start + i], blank, (i + 1.0) / length);
                    shot[i] = Mix(blank, shot[i], (i + 1.0) / (length + 1));
                }

                frames.AddRange(Enumerable.Repeat(blank, pause));
                events.Add(new(kind, start, frames.Count + length));
            }
            else if (kind is "cut")
            {
                events.Add(new(kind, frames.Count, frames.Count));
            }

            if (group is "flashes")
            {
                Flash(shot, frames.Count, events, random);
            }

            frames.AddRange(shot);
            previous = shot;
        }

        Encode(path, frames, width, height);
        return new(path, group, frames.Count, [.. events]);
    }

    // One or two flashes in the middle of a shot: 1 to 4 bright frames, then darker ones.
    private static void Flash(byte[][] shot, int offset, List<TrueEvent> events, Random random)
    {
        var white = new byte[shot[0].Length];
        Array.Fill(white, (byte)255);
        for (var at = 10 + random.Next(6); at < shot.Length - 18 && random.Next(4) > 0; at += 20 + random.Next(30))
        {
            var (bright, decay, strength) = (random.Next(1, 4), random.Next(4), 0.5 + (random.NextDouble() * 0.5));
            for (var i = 0; i < bright + decay; i++)
            {
                shot[at + i] = Mix(shot[at + i], white, i < bright ? strength : strength * (decay - (i - bright)) / (decay + 1));
            }

            events.Add(new("flash", offset + at, offset + at + bright + decay));
        }
    }

    private static byte[] Mix(byte[] first, byte[] second, double part)
    {
        var result = new byte[first.Length];
        var (a, b) = ((int)Math.Round((1 - part) * 256), (int)Math.Round(part * 256));
        for (var i = 0; i < result.Length; i++)
        {
            result[i] = (byte)Math.Min(255, ((first[i] * a) + (second[i] * b) + 128) >> 8);
        }

        return result;
    }

    private static string Animation(Random random, int width, int height) =>
        random.Next(4) switch
        {
            0 => $"testsrc2=size={width}x{height}:rate=25",
            1 => $"mandelbrot=size={width}x{height}:rate=25:start_scale={Text(0.5 + random.NextDouble())}",
            2 => $"gradients=size={width}x{height}:rate=25:seed={random.Next(1000)}:speed=0.02",
            _ => $"life=size={width}x{height}:rate=25:mold=10:seed={random.Next(1000)}:ratio=0.1:death_color=0x203080:life_color=0xffe0a0",
        };

    private static byte[][] Decode(string[] input, double seconds, int width, int height)
    {
        using var ffmpeg = Start(
            "ffmpeg",
            [
                "-v",
                "error",
                "-nostdin",
                .. input,
                "-t",
                Text(seconds),
                "-vf",
                $"scale={width}:{height}:force_original_aspect_ratio=increase,crop={width}:{height},fps={Text(Rate)}",
                "-f",
                "rawvideo",
                "-pix_fmt",
                "rgb24",
                "pipe:1",
            ]
        );
        List<byte[]> frames = [];
        while (true)
        {
            var frame = new byte[width * height * 3];
            if (ffmpeg.StandardOutput.BaseStream.ReadAtLeast(frame, frame.Length, throwOnEndOfStream: false) < frame.Length)
            {
                return [.. frames];
            }

            frames.Add(frame);
        }
    }

    private static void Encode(string path, List<byte[]> frames, int width, int height)
    {
        string[] input = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", $"{width}x{height}", "-r", Text(Rate), "-i", "pipe:0"];
        using var ffmpeg = Start(
            "ffmpeg",
            ["-v", "error", "-y", .. input, "-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-pix_fmt", "yuv420p", path]
        );
        foreach (var frame in frames)
        {
            ffmpeg.StandardInput.BaseStream.Write(frame);
        }

        ffmpeg.StandardInput.Close();
        ffmpeg.WaitForExit();
        if (ffmpeg.ExitCode != 0)
        {
            throw new InvalidOperationException($"ffmpeg could not encode '{path}'.");
        }
    }

    private static double Duration(string path)
    {
        using var ffprobe = Start("ffprobe", ["-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", path]);
        var text = ffprobe.StandardOutput.ReadToEnd();
        return double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out var seconds) ? seconds : 0;
    }

    private static Process Start(string program, IEnumerable<string> arguments) =>
        Process.Start(
            new ProcessStartInfo(program, arguments)
            {
                RedirectStandardInput = true,
                RedirectStandardOutput = true,
                UseShellExecute = false,
            }
        )!;

    private static string Text(double number) => number.ToString("0.###", CultureInfo.InvariantCulture);
}
