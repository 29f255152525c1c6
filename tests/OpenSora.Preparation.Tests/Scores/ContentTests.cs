using OpenSora.Preparation.Scores;

namespace OpenSora.Preparation.Tests.Scores;

/// <summary>Scores of small clips, decoded by ffmpeg, whose content is known.</summary>
public class ContentTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Size_and_duration_are_those_of_the_clip()
    {
        using var folder = new TemporaryFolder();
        var path = await Videos.MakeAsync("-f", "lavfi", "-i", "testsrc=size=96x64:rate=10:duration=2", folder["a.mp4"]);

        var scores = await Clips.ScoreAsync(path, "duration");

        scores.Keys.ShouldBe(["duration", "width", "height", "aspect_ratio", "fps", "resolution"]);
        scores.Values.Select(value => Math.Round(value.Number!.Value, 6)).ShouldBe([2, 96, 64, 0.666667, 10, 6144]);
    }

    [Fact]
    public async Task Frames_are_sampled_at_a_common_size_with_bounded_memory()
    {
        using var folder = new TemporaryFolder();
        var path = await Videos.MakeAsync("-f", "lavfi", "-i", "testsrc=size=96x64:rate=30:duration=4", folder["a.mp4"]);

        var all = await ClipFrames.ReadAsync(path, new() { FramesPerSecond = 100, MaxFrames = 1000 }, cancellationToken: Token);
        var usual = await ClipFrames.ReadAsync(path, cancellationToken: Token);
        var few = await ClipFrames.ReadAsync(path, new() { FramesPerSecond = 100, MaxFrames = 10 }, cancellationToken: Token);
        var wide = await ClipFrames.ReadAsync(path, new() { ShortSide = 256, MaxLongSide = 300 }, cancellationToken: Token);

        (all.Count, all.FramesPerSecond, all.Width, all.Height).ShouldBe((120, 30, 384, 256));
        (usual.Count, usual.FramesPerSecond).ShouldBe((60, 15));
        (few.Count, few.FramesPerSecond).ShouldBe((8, 30.0 / 16)); // frames 0, 16 ... 112
        (wide.Width, wide.Height).ShouldBe((300, 200));
        for (var i = 0; i < few.Count; i++)
        {
            few.Rgb(i).SequenceEqual(all.Rgb(16 * i)).ShouldBeTrue();
        }

        all.Sample(4).ShouldBe([15, 45, 75, 105]);
        few.Sample(100).ShouldBe(Enumerable.Range(0, 8));
    }

    [Fact]
    public void Brightness_is_computed_alike_for_all_pixels()
    {
        var rgb = new byte[67 * 3]; // four vectors and three pixels
        new Random(1).NextBytes(rgb);
        var luma = Pixels.Luma(rgb);
        for (var i = 0; i < luma.Length; i++)
        {
            ((double)luma[i]).ShouldBe((0.299 * rgb[3 * i]) + (0.587 * rgb[(3 * i) + 1]) + (0.114 * rgb[(3 * i) + 2]), 1);
        }
    }

    [Fact]
    public async Task Black_and_frozen_parts_are_measured()
    {
        using var folder = new TemporaryFolder();
        var path = await FilterAsync(
            ["-f", "lavfi", "-i", "color=black:size=96x64:rate=10:duration=1", "-f", "lavfi", "-i", "testsrc2=size=96x64:rate=10:duration=3"],
            // 1 s of black; then 1 s that moves, its last frame for 1 s, and 1 s that moves
            "[1]split[a][b];[a]trim=0:1,setpts=PTS-STARTPTS,tpad=stop_mode=clone:stop_duration=1[a2];"
                + "[b]trim=1:2,setpts=PTS-STARTPTS[b2];[0][a2][b2]concat=n=3",
            folder["a.mp4"]
        );

        var scores = await Clips.ScoreAsync(path, "black");

        scores["black"].Number!.Value.ShouldBe(10 / 40.0, 0.001);
        scores["frozen"].Number!.Value.ShouldBe(19 / 39.0, 0.03); // 9 pairs of black frames and 10 of frozen ones
    }

    [Fact]
    public async Task Noise_and_a_logo_do_not_hide_a_black_clip_and_a_moving_corner_is_not_frozen()
    {
        var random = new Random(1);
        var black = Clips.Make(3, (_, x, y) => x > 104 && y > 60 ? 255 : random.NextDouble() * 12);
        var corner = Clips.Make(3, (frame, x, y) => x > 106 && y > 58 ? 128 + (20 * frame) : 128, framesPerSecond: 10);

        (await Clips.ScoreAsync(black, "black"))["black"].Number.ShouldBe(1);
        (await Clips.ScoreAsync(corner, "frozen"))["frozen"].Number.ShouldBe(0);
    }

    [Fact]
    public async Task Sharpness_falls_with_blur_and_hardly_depends_on_the_size_of_the_video()
    {
        using var folder = new TemporaryFolder();
        var image = Image(folder, seed: 4, 640, 360);
        async Task<double> SharpnessAsync(string filter)
        {
            var path = await Videos.MakeAsync(
                "-loop",
                "1",
                "-i",
                image,
                "-frames:v",
                "3",
                "-vf",
                filter,
                "-crf",
                "12",
                folder[$"{Guid.NewGuid()}.mp4"]
            );
            return (await Clips.ScoreAsync(path, "sharpness"))["sharpness"].Number!.Value;
        }

        List<double> values = [];
        foreach (var sigma in (string[])["0.01", "1", "2", "4", "8"])
        {
            values.Add(await SharpnessAsync($"gblur=sigma={sigma}:steps=4"));
        }

        values.ShouldBe(values.OrderDescending());
        values.Zip(values.Skip(1)).ShouldAllBe(pair => pair.First > 1.25 * pair.Second);
        (await SharpnessAsync("gblur=sigma=3:steps=4,scale=1280:720") / await SharpnessAsync("gblur=sigma=3:steps=4")).ShouldBe(1, 0.25);
    }

    [Fact]
    public void Sharpness_is_the_variance_of_the_Laplacian()
    {
        const int width = 37,
            height = 9;
        var luma = new byte[width * height];
        new Random(2).NextBytes(luma);
        List<double> laplacian = [];
        for (var y = 1; y < height - 1; y++)
        {
            for (var x = 1; x < width - 1; x++)
            {
                int At(int dx, int dy) => luma[((y + dy) * width) + x + dx];
                laplacian.Add((4 * At(0, 0)) - At(-1, 0) - At(1, 0) - At(0, -1) - At(0, 1));
            }
        }

        var mean = laplacian.Average();
        SharpnessScore.Variance(luma, width, height).ShouldBe(laplacian.Average(each => (each - mean) * (each - mean)), 1e-6);
    }

    [Fact]
    public async Task A_cut_stands_out_and_fast_motion_does_not()
    {
        var (first, second) = (Clips.Texture(5), Clips.Texture(6));
        var cut = Clips.Make(12, (frame, x, y) => frame < 7 ? first(x + frame, y) : second(x + frame, y));
        var pan = Clips.Make(12, (frame, x, y) => first(x + (12 * frame), y));

        (await Clips.ScoreAsync(cut, "cut"))["cut"].Number!.Value.ShouldBeGreaterThan(25);
        (await Clips.ScoreAsync(pan, "cut"))["cut"].Number!.Value.ShouldBeLessThan(8);
    }

    [Fact]
    public async Task A_pan_in_a_file_is_measured_whatever_the_size_and_the_frame_rate()
    {
        using var folder = new TemporaryFolder();
        var image = Image(folder, seed: 7, 800, 360);
        foreach (var (size, rate, speed) in new[] { ("640:360", 25, 2), ("320:180", 50, 1) })
        {
            var path = await FilterAsync(
                ["-loop", "1", "-framerate", $"{rate}", "-i", image],
                $"crop=640:360:n*{speed}:0,scale={size}",
                folder[$"{rate}.mp4"],
                "-frames:v",
                $"{rate}"
            );

            var scores = await Clips.ScoreAsync(path, "pan");

            scores["pan"].Number!.Value.ShouldBe(100 * 50 / 360.0, 1.5); // 50 of 360 pixels in a second
            scores["motion_kind"].Text.ShouldBe("pan");
        }
    }

    [Fact]
    public async Task Reencoded_duplicates_are_found_and_other_clips_are_not()
    {
        using var folder = new TemporaryFolder();
        var set = new NearDuplicates();
        async Task AddAsync(string path, double rank) =>
            set.Add(Path.GetFileName(path), ClipHash.Parse((await Clips.ScoreAsync(path, "hash"))["hash"].Text!), rank);

        for (var clip = 0; clip < 3; clip++)
        {
            var image = Image(folder, 10 + clip, 480, 270);
            var original = await FilterAsync(
                ["-loop", "1", "-framerate", "20", "-i", image],
                "crop=320:180:n*2:n",
                folder[$"clip {clip}.mp4"],
                "-frames:v",
                "20"
            );
            var copy = await FilterAsync(["-i", original], "scale=160:90,eq=brightness=0.05,fps=10", folder[$"copy of {clip}.mp4"], "-crf", "40");
            await AddAsync(copy, rank: 90);
            await AddAsync(original, rank: 180);
        }

        var found = set.Find(Token);

        found.Select(each => (each.Id, each.KeptId)).ShouldBe(Enumerable.Range(0, 3).Select(clip => ($"copy of {clip}.mp4", $"clip {clip}.mp4")));
        found.ShouldAllBe(each => each.Distance <= 28);
    }

    [Fact]
    public void Images_that_show_nothing_have_the_hash_0_and_scenes_have_different_ones()
    {
        HashScore.Hash(Clips.Make(1, (_, _, _) => 77).Luma(0), Clips.Width, Clips.Height).ShouldBe(0UL);
        var hashes = Enumerable
            .Range(20, 12)
            .Select(seed => HashScore.Hash(Clips.Make(1, (_, x, y) => Clips.Texture(seed)(x, y), width: 57, height: 32).Luma(0), 57, 32))
            .ToArray();
        var distances = from a in hashes from b in hashes where a < b select ulong.PopCount(a ^ b);
        distances.ShouldAllBe(distance => distance > 12);
    }

    [Theory]
    [InlineData(230, 60, 2)]
    [InlineData(20, 160, 2)]
    [InlineData(255, 0, 3)]
    public async Task Text_over_a_scene_is_found_and_the_scene_alone_is_not_text(int ink, int scene, int scale)
    {
        var texture = Clips.Texture(8);
        double Background(double x, double y) => scene + ((texture(x, y) - 128) / 3);
        var (left, top, width, height) = (-150.0, 60.0, 6 * scale * Letters.Length, 7 * scale);
        var text = Clips.Make(
            1,
            (_, x, y) => IsInk((int)Math.Floor((x - left) / scale), (int)Math.Floor((y - top) / scale)) ? ink : Background(x, y),
            width: 455,
            height: 256
        );

        var found = (await Clips.ScoreAsync(text, "text_area"))["text_area"].Number!.Value;

        var truth = (double)width * height / (455 * 256);
        found.ShouldBeInRange(0.5 * truth, 2 * truth);
        (await Clips.ScoreAsync(Clips.Make(1, (_, x, y) => Background(x, y), width: 455, height: 256), "text_area"))["text_area"].Number.ShouldBe(0);
    }

    [Fact]
    public async Task Edges_of_objects_and_textures_are_not_text()
    {
        var random = new Random(3);
        foreach (
            var scene in new Func<double, double, double>[]
            {
                (x, y) => Math.Floor(x / 24) % 2 == 0 ? 40 : 200, // wide bars
                (x, y) => Math.Abs(x) < 60 && Math.Abs(y) < 60 ? 230 : 30, // a box
                (x, y) => random.Next(256), // noise
                (x, y) => 128 + (100 * Math.Sin(x / 3) * Math.Sin(y / 5) * Math.Sin((x + y) / 31)), // waves of many brightnesses
            }
        )
        {
            var clip = Clips.Make(1, (_, x, y) => scene(x, y), width: 455, height: 256);
            (await Clips.ScoreAsync(clip, "text_area"))["text_area"].Number!.Value.ShouldBeLessThan(0.01);
        }
    }

    // Letters of five columns and seven rows.
    private const string Letters = "THE TOTAL LENIENT HOTEL";

    private static bool IsInk(int column, int row)
    {
        var letter = column < 0 || row is < 0 or > 6 || column / 6 >= Letters.Length || column % 6 == 5 ? ' ' : Letters[column / 6];
        var x = column % 6;
        return letter switch
        {
            'T' => row == 0 || x == 2,
            'H' => x is 0 or 4 || row == 3,
            'E' => x == 0 || row is 0 or 3 or 6,
            'O' => x is 0 or 4 ? row is > 0 and < 6 : row is 0 or 6,
            'A' => x is 0 or 4 ? row > 0 : row is 0 or 3,
            'L' => x == 0 || row == 6,
            'N' => x is 0 or 4 || (x + 1 == row),
            'I' => x == 2 || row is 0 or 6,
            _ => false,
        };
    }

    /// <summary>Makes a video from inputs by a filter.</summary>
    private static Task<string> FilterAsync(string[] inputs, string filter, string path, params string[] options) =>
        Videos.MakeAsync([.. inputs, "-filter_complex", filter, .. options, path]);

    /// <summary>Writes a textured image.</summary>
    private static string Image(TemporaryFolder folder, int seed, int width, int height)
    {
        var path = folder[$"{seed}.pgm"];
        var texture = Clips.Texture(seed);
        var fine = new Random(seed);
        using var file = File.Create(path);
        file.Write(System.Text.Encoding.ASCII.GetBytes($"P5\n{width} {height}\n255\n"));
        for (var i = 0; i < width * height; i++)
        {
            file.WriteByte((byte)Math.Clamp(texture(i % width, i / width) + fine.Next(-20, 20), 0, 255));
        }

        return path;
    }
}
