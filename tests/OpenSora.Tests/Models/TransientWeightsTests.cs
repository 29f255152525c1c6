using System.Globalization;
using OpenSora.Models;
using OpenSora.Models.Layers;
using OpenSora.Runtime;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Models;

/// <summary>Weights that are in memory only while they are used.</summary>
public sealed class TransientWeightsTests : IDisposable
{
    // Every matrix has at least 64 KiB in float32 and in bfloat16.
    private static readonly T5Config Config = new()
    {
        VocabSize = 600,
        DModel = 128,
        DKv = 64,
        DFf = 512,
        NumLayers = 3,
        NumHeads = 4,
    };

    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("float32", false)]
    [InlineData("float32", true)]
    [InlineData("bfloat16", false)]
    [InlineData("bfloat16", true)]
    [InlineData("float8", true)]
    [InlineData("shards", true)]
    [InlineData("unaligned", true)]
    public void Results_are_those_of_weights_that_stay_in_memory(string kind, bool byBlock)
    {
        var path = Save(kind);
        var before = TensorCount.Settled;
        using (var scope = NewDisposeScope())
        {
            using var noGradients = no_grad();
            var ids = tensor(
                new long[,]
                {
                    { 1, 5, 599, 0, 17 },
                    { 3, 3, 2, 250, 1 },
                }
            );
            using var kept = new T5TextEncoder(Config, initialize: false);
            using (var file = WeightsFile.Open(path))
            {
                kept.LoadWeights(file, Options(file));
            }

            var expected = kept.call(ids, null);
            expected.isfinite().all().item<bool>().ShouldBeTrue();

            using var lent = new T5TextEncoder(Config, initialize: false);
            TransientWeights.Attach(lent, lent, path, Options, CPU, byBlock);
            lent.call(ids, null).isnan().all().item<bool>().ShouldBeTrue("without its weights");
            for (var i = 0; i < 2; i++)
            {
                using (TransientWeights.Use(lent))
                {
                    lent.call(ids, null).eq(expected).all().item<bool>().ShouldBeTrue();
                    Present(lent).ShouldBe(byBlock ? [] : [0, 1, 2]);
                }

                Present(lent).ShouldBeEmpty();
            }

            TransientWeights.Close(lent);
        }

        TensorCount.ShouldBe(before, settled: true);
    }

    [Fact]
    public void Blocks_are_in_memory_one_at_a_time()
    {
        using var encoder = Streaming();
        var blocks = Blocks(encoder);
        var number = 0;
        foreach (var block in blocks)
        {
            block.ShouldBeSameAs(blocks[number]);
            Present(encoder).ShouldBe([number++]);
        }

        number.ShouldBe(3);
        Present(encoder).ShouldBeEmpty();
        TransientWeights.Close(encoder);
    }

    [Fact]
    public void A_block_is_given_back_when_a_computation_fails()
    {
        using var encoder = Streaming();
        Should.Throw<OperationCanceledException>(() =>
        {
            foreach (var block in Blocks(encoder))
            {
                Present(encoder).ShouldBe([0]);
                throw new OperationCanceledException();
            }
        });
        Present(encoder).ShouldBeEmpty();
        TransientWeights.Close(encoder);
    }

    [Fact]
    public void A_block_stays_in_memory_until_its_last_user_is_done()
    {
        using var encoder = Streaming();
        using var first = Blocks(encoder).GetEnumerator();
        using var second = Blocks(encoder).GetEnumerator();
        first.MoveNext();
        second.MoveNext();
        Present(encoder).ShouldBe([0]);
        first.MoveNext();
        Present(encoder).ShouldBe([0, 1]);
        second.MoveNext();
        Present(encoder).ShouldBe([1]);
        first.Dispose();
        Present(encoder).ShouldBe([1]);
        second.Dispose();
        Present(encoder).ShouldBeEmpty();
        TransientWeights.Close(encoder);
    }

    [Theory]
    [InlineData("float32")]
    [InlineData("bfloat16")]
    [InlineData("float8")]
    public void Pages_of_the_file_leave_the_resident_memory(string kind)
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "The resident memory of a mapped file is read from /proc/self/smaps.");
        var large = Config with { NumLayers = 8, DModel = 256, DFf = 1024, NumHeads = 8 };
        var path = Save(kind, large);
        var size = new FileInfo(path).Length;
        using var noGradients = no_grad();
        using var ids = tensor(
            new long[,]
            {
                { 1, 5, 599 },
            }
        );

        if (kind is "float32")
        {
            using var kept = new T5TextEncoder(large, initialize: false);
            kept.LoadWeights(path);
            kept.call(ids, null).Dispose();
            Resident(path).ShouldBeGreaterThan(size * 9 / 10, "the measurement sees mapped pages");
        }

        using var encoder = new T5TextEncoder(large, initialize: false);
        TransientWeights.Attach(encoder, encoder, path, Options, CPU, byBlock: true);
        using (TransientWeights.Use(encoder))
        {
            foreach (var block in Blocks(encoder))
            {
                foreach (var parameter in block.parameters())
                {
                    parameter.sum().Dispose();
                }

                Resident(path).ShouldBeLessThan(size / 4);
            }
        }

        Resident(path).ShouldBeLessThan(size / 10);
        TransientWeights.Close(encoder);
    }

    [Fact]
    public void A_network_without_blocks_cannot_be_streamed()
    {
        using var network = new TinyAutoencoder(new TinyAutoencoderConfig());
        network.SaveWeights(_folder["taesd.safetensors"]);
        var error = Should.Throw<InvalidOperationException>(() =>
            TransientWeights.Attach(network, network, _folder["taesd.safetensors"], _ => new LoadOptions(), CPU, byBlock: true)
        );
        error.Message.ShouldStartWith("TinyAutoencoder cannot be streamed, because it has no list of blocks. Use the residency Release or Keep");
    }

    [Fact]
    public void Weights_that_do_not_fit_are_found_at_once()
    {
        var path = Save("float32");
        using var encoder = new T5TextEncoder(Config with { NumLayers = 4 }, initialize: false);
        Should
            .Throw<InvalidWeightsException>(() => TransientWeights.Attach(encoder, encoder, path, Options, CPU, byBlock: true))
            .Message.ShouldContain("they do not fit the model");
    }

    [Fact]
    public void Users_share_what_is_loaded_for_the_first_and_unloaded_after_the_last()
    {
        var (loaded, unloaded, fails) = (0, 0, true);
        var shared = new OnDemand(
            () =>
            {
                if (fails)
                {
                    throw new IOException();
                }

                loaded++;
            },
            () => unloaded++
        );
        Should.Throw<IOException>(() => shared.Use());
        fails = false;
        Parallel.For(0, 200, _ =>
        {
            using var one = shared.Use();
            using var two = shared.Use();
            (Volatile.Read(ref loaded) - Volatile.Read(ref unloaded)).ShouldBe(1);
        });
        unloaded.ShouldBe(loaded);
        loaded.ShouldBePositive();
    }

    private T5TextEncoder Streaming()
    {
        var encoder = new T5TextEncoder(Config, initialize: false);
        TransientWeights.Attach(encoder, encoder, Save("bfloat16"), Options, CPU, byBlock: true);
        return encoder;
    }

    private static BlockList<T5Block> Blocks(T5TextEncoder encoder) => encoder.modules().OfType<BlockList<T5Block>>().Single();

    // The numbers of the blocks with all their weights; no block may have only some.
    private static List<int> Present(T5TextEncoder encoder)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        var blocks = Blocks(encoder);
        List<int> present = [];
        for (var i = 0; i < blocks.Count; i++)
        {
            bool[] finite =
            [
                .. blocks[i].parameters().Where(one => one.dim() == 2 && one.numel() >= 1 << 14).Select(one => one.isfinite().all().item<bool>()),
            ];
            finite.Length.ShouldBe(7);
            finite.Distinct().Count().ShouldBe(1);
            if (finite[0])
            {
                present.Add(i);
            }
        }

        return present;
    }

    private static LoadOptions Options(WeightsFile file) => new() { KeyMap = KeyMaps.T5(file.Tensors.Keys) };

    private string Save(string kind, T5Config? config = null)
    {
        using var scope = NewDisposeScope();
        using var noGradients = no_grad();
        using var network = new T5TextEncoder(config ?? Config);
        var path = _folder[$"{kind}.safetensors"];
        switch (kind)
        {
            case "bfloat16":
                network.SaveWeights(path, ScalarType.BFloat16);
                break;
            case "float8":
                Float8File.Write(path, network.state_dict());
                break;
            case "shards":
                var halves = network.state_dict().Chunk(12).ToArray();
                for (var i = 0; i < halves.Length; i++)
                {
                    WeightsFile.Write(_folder[Shard(i)], halves[i]);
                }

                return _folder[Shard(0)];

                string Shard(int number) => $"t5-{number + 1:00000}-of-{halves.Length:00000}.safetensors";
            case "unaligned":
                network.SaveWeights(path);
                Misalign(path);
                break;
            default:
                network.SaveWeights(path);
                break;
        }

        return path;
    }

    // A header with an odd length, so that no tensor can be a view.
    private static void Misalign(string path)
    {
        var bytes = File.ReadAllBytes(path);
        var length = BitConverter.ToInt64(bytes) + 1;
        File.WriteAllBytes(
            path,
            [.. BitConverter.GetBytes(length), .. bytes.AsSpan(8, (int)length - 1), (byte)' ', .. bytes.AsSpan(7 + (int)length)]
        );
    }

    // The resident memory of all mappings of a file in bytes.
    private static long Resident(string path)
    {
        var (isFile, kilobytes) = (false, 0L);
        foreach (var line in File.ReadLines("/proc/self/smaps"))
        {
            var words = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
            if (words[0].Contains('-', StringComparison.Ordinal))
            {
                isFile = line.EndsWith(path, StringComparison.Ordinal);
            }
            else if (isFile && words[0] is "Rss:")
            {
                kilobytes += long.Parse(words[1], CultureInfo.InvariantCulture);
            }
        }

        return kilobytes << 10;
    }
}

/// <summary>Writes tensors as 8-bit floating-point numbers.</summary>
file static class Float8File
{
    public static void Write(string path, Dictionary<string, Tensor> tensors)
    {
        var (header, bytes) = (new Dictionary<string, object>(StringComparer.Ordinal), new List<byte>());
        foreach (var (name, value) in tensors)
        {
            var from = bytes.Count;
            bytes.AddRange(Enumerable.Range(0, (int)value.numel()).Select(i => (byte)(0x28 + ((i * 7 + from) % 13) + (i % 2 * 0x80))));
            header[name] = new
            {
                dtype = "F8_E4M3",
                shape = value.shape,
                data_offsets = new[] { from, bytes.Count },
            };
        }

        var json = System.Text.Json.JsonSerializer.SerializeToUtf8Bytes(header);
        File.WriteAllBytes(path, [.. BitConverter.GetBytes((long)json.Length), .. json, .. bytes]);
    }
}
