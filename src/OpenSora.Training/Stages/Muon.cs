using OpenSora.Runtime;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.Training.Stages;

/// <summary>The updates of Muon (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024): the momentum of the gradients of a
/// matrix, replaced by the nearest matrix with orthogonal rows or columns, so that all directions of the matrix change by the same amount.</summary>
/// <remarks>The momentum is 0.95 with Nesterov's correction. The size of an update is that of Liu et al., "Muon is scalable for LLM training" (2025),
/// section 2.2: its entries have the same root mean square whatever the shape of the matrix.</remarks>
internal static class Muon
{
    private const double Momentum = 0.95;

    // How many values are made orthogonal together.
    private const long MostValues = 1 << 24;

    // The polynomials a x + b x^3 + c x^5 of "The Polar Express" (Amsel et al., 2025), which bring singular values between 0.001 and 1 to within
    // 12 % of 1. Norms are divided by 1.01 first, because rounding may increase the largest singular value.
    private static readonly (double A, double B, double C)[] Polynomials =
    [
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
        (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
        (3.3184196736573706, -2.488488024314874, 0.51004894012372),
        (2.300652019954817, -1.6689039845749518, 0.4188073119525673),
    ];

    /// <summary>Determines whether Muon trains a parameter: whether it is a matrix of a transformer block.</summary>
    public static bool Trains(string name, Tensor parameter) =>
        parameter.dim() == 2 && name.Contains("blocks.", StringComparison.Ordinal) && name.EndsWith(".weight", StringComparison.Ordinal);

    /// <summary>Updates matrices that have a gradient.</summary>
    /// <param name="matrices">The matrices with their names and the moving averages of their gradients, which this method updates.</param>
    /// <param name="rate">The learning rate.</param>
    /// <param name="scale">The root mean square of the entries of an update for a learning rate of 1.</param>
    /// <param name="weightDecay">The weight decay.</param>
    /// <param name="type">The data type of the matrix multiplications.</param>
    public static void Step(
        IEnumerable<(string Name, Parameter Weights, Tensor Mean)> matrices,
        double rate,
        double scale,
        double weightDecay,
        ScalarType type
    )
    {
        var some = matrices.Where(matrix => matrix.Weights.grad is not null);
        foreach (var group in some.GroupBy(matrix => (Rows: matrix.Weights.shape[0] / Parts(matrix.Name), Columns: matrix.Weights.shape[1])))
        {
            var size = scale * Math.Sqrt(Math.Max(group.Key.Rows, group.Key.Columns));
            foreach (var chunk in group.Chunk((int)Math.Max(1, MostValues / (3 * group.Key.Rows * group.Key.Columns))))
            {
                using var scope = NewDisposeScope();
                var updates = Orthogonal(cat([.. chunk.Select(matrix => Direction(matrix.Weights, matrix.Mean, group.Key.Rows))]), type);
                var at = 0L;
                foreach (var (name, weights, _) in chunk)
                {
                    using var inner = NewDisposeScope();
                    var update = updates.narrow(0, at, Parts(name)).reshape(weights.shape).to(weights.dtype);
                    weights.MultiplyInPlace(1 - rate * weightDecay).AddInPlace(update, -rate * size);
                    at += Parts(name);
                }
            }
        }
    }

    /// <summary>Makes the singular values of matrices about equal to 1, with the same singular vectors.</summary>
    /// <param name="matrices"><c>[N, rows, columns]</c>.</param>
    /// <param name="type">The data type of the matrix multiplications.</param>
    public static Tensor Orthogonal(Tensor matrices, ScalarType type)
    {
        using var scope = NewDisposeScope();
        var isTall = matrices.shape[1] > matrices.shape[2];
        var norm = matrices.to(ScalarType.Float32).Squared().sum([1L, 2L], keepdim: true).sqrt().Times(1.01).ClampMin(1e-12);
        var x = (matrices / norm).to(type);
        x = isTall ? x.transpose(1, 2) : x;
        foreach (var (a, b, c) in Polynomials)
        {
            using var inner = NewDisposeScope();
            var s = x.bmm(x.transpose(1, 2));
            var polynomial = s.Times(b).Plus(s.bmm(s).Times(c));
            x = x.Times(a).Plus(polynomial.bmm(x)).MoveToOuterDisposeScope();
        }

        return (isTall ? x.transpose(1, 2) : x).MoveToOuterDisposeScope();
    }

    // Projections to queries, keys and values are separate matrices, one below the other.
    private static long Parts(string name) =>
        name.EndsWith(".qkv.weight", StringComparison.Ordinal) ? 3
        : name.EndsWith(".kv_linear.weight", StringComparison.Ordinal) ? 2
        : 1;

    // The momentum of the gradient as [parts, rows, columns].
    private static Tensor Direction(Parameter weights, Tensor mean, long rows)
    {
        var gradient = weights.grad!;
        mean.MultiplyInPlace(Momentum).AddInPlace(gradient, 1 - Momentum);
        return mean.Times(Momentum).AddInPlace(gradient, 1 - Momentum).view(-1, rows, weights.shape[1]);
    }
}
